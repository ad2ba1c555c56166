# What .ci/run is made of. CONTRIBUTING.md says when to run which.
BENCH ?= Match|Sample|Group|Firing
PKG   ?= internal/engine
GOLDEN = ./cmd/sockdog ./docs ./rules ./rules/ruletest ./internal/why ./rules/ssfilter ./internal/alert ./internal/journal ./internal/notify ./internal/statustext

.PHONY: build test race lint bench bench-compare golden release site deployed ci
build:         ; CGO_ENABLED=0 go build -trimpath -tags=nethttpomithttp2 -ldflags='-s -w' ./cmd/sockdog
test:          ; go test ./...
race:          ; go test -race -v -timeout 20m ./...
lint:          ; .ci/lint
bench:         ; go test ./$(PKG)/... -run '^$$' -bench '$(BENCH)' -benchmem
bench-compare: ; .ci/bench-compare '$(BASE)' '$(PKG)' '$(BENCH)'
golden:        ; go test $(GOLDEN) -update && go test -C .ci/manifest . -update
release:       ; .ci/release/build
site:          ; .ci/site/run
deployed:      ; .ci/image && .ci/systemd && .ci/kernels/run
ci:            ; .ci/run
