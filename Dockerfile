# One static binary, no root, no shell, for amd64 and arm64:
#
#	docker build -t sockdog .
#	docker run --net=host --cap-drop=ALL --cap-add=NET_ADMIN --read-only \
#		-v /etc/sockdog:/etc/sockdog:ro sockdog
#
# The last target is the default, a sidecar's. That of a whole node without root: --target node.
# What a build fetches is this image, which a digest pins to the byte
# (--build-arg GO_IMAGE=golang:1.26.10-bookworm@sha256:...), and modules, which go.sum does.
ARG GO_IMAGE=golang:1.26.10-bookworm

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY .ci/release/filecaps .ci/release/filecaps
COPY cmd cmd
COPY internal internal
COPY rules rules
ARG GOPROXY
ARG TARGETOS
ARG TARGETARCH
# What sockdog version and the labels say: v1.2.3, a commit (git rev-parse HEAD), and its time in RFC 3339.
ARG VERSION
ARG COMMIT
ARG DATE
ENV CGO_ENABLED=0 GOMODCACHE=/cache/modules GOCACHE=/cache/build
# HTTP/2 is half a megabyte, and alerts are sent one at a time.
#
# A container runtime gives a process that is not root no ambient capabilities, so the binary
# brings the permission along and raises the capability itself. Permitted only: in effect from
# the start, it could not even start where one of them is dropped.
RUN --mount=type=cache,target=/cache \
	GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -tags=nethttpomithttp2 -o /out/sidecar/sockdog \
		-ldflags="-s -w -X main.linkedVersion=$VERSION -X main.linkedCommit=$COMMIT -X main.linkedDate=$DATE" ./cmd/sockdog && \
	mkdir /out/node && cp /out/sidecar/sockdog /out/node && \
	go build -o /out/filecaps ./.ci/release/filecaps && \
	/out/filecaps /out/sidecar/sockdog net_admin && \
	/out/filecaps /out/node/sockdog net_admin sys_admin sys_ptrace dac_read_search bpf

FROM scratch AS base
ARG VERSION
ARG COMMIT
ARG DATE
LABEL org.opencontainers.image.title=sockdog \
	org.opencontainers.image.description="A watchdog for stuck TCP sockets" \
	org.opencontainers.image.source=https://github.com/sockdog/sockdog \
	org.opencontainers.image.licenses=Apache-2.0 \
	org.opencontainers.image.version=$VERSION \
	org.opencontainers.image.revision=$COMMIT \
	org.opencontainers.image.created=$DATE
# The system's authorities, for receivers of alerts at https:// URLs.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# So that kubectl exec POD -- sockdog status finds it.
ENV PATH=/
USER 65532:65532
ENTRYPOINT ["/sockdog"]
# Without a good rules file it watches, touches nothing and says so: a sidecar
# must not keep its pod from starting.
CMD ["run", "--rules=/etc/sockdog/rules.yaml", "--on-bad-rules=observe"]

# For a whole node without root: examples/kubernetes/node-rootless.
FROM base AS node
COPY --from=build /out/node/sockdog /sockdog

FROM base AS sidecar
COPY --from=build /out/sidecar/sockdog /sockdog
