# One static binary, no root, no shell:
#
#	docker build -t sockdog .
#	docker run --net=host --cap-drop=ALL --cap-add=NET_ADMIN --read-only \
#		-v /etc/sockdog:/etc/sockdog:ro sockdog

ARG GO_IMAGE=golang:1.26
FROM ${GO_IMAGE} AS build
RUN command -v setcap >/dev/null || { apt-get update && apt-get install -y --no-install-recommends libcap2-bin; }
WORKDIR /src
ARG GOPROXY
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Nothing here speaks HTTP/2: the page is plain HTTP, and alerts are sent one at a time.
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/sockdog ./cmd/sockdog
# A container runtime gives a process that is not root no ambient capabilities,
# so the binary brings the permission along and raises the capability itself.
# Permitted only: with +ep it could not even start where NET_ADMIN is dropped.
RUN setcap cap_net_admin+p /out/sockdog

FROM scratch
# The system's authorities, for receivers of alerts at https:// URLs.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/sockdog /sockdog
# So that kubectl exec POD -- sockdog status finds it.
ENV PATH=/
USER 65532:65532
ENTRYPOINT ["/sockdog"]
# Without a good rules file it watches, touches nothing and says so: a sidecar
# must not keep its pod from starting.
CMD ["run", "--rules=/etc/sockdog/rules.yaml", "--on-bad-rules=observe"]
