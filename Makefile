# make                       builds the program into bin/, and a link to it for each command
# make demo                  runs the whole pipe on real text against the local emulator
# make demo-vertex           runs the same pipe against the emulator's Vertex AI and Cloud Storage
# make test                  runs all tests
# make embed DB=kb.duckdb    embeds your database with the whole pipe, and waits for the jobs
# make flush DB=kb.duckdb    submits what is pending in your database, and does not wait
# make sync  DB=kb.duckdb    collects the jobs that have ended
# make check                 runs the scripts with the built commands
# make lint race fuzz purego runs the other checks of CI
# make man completions       writes manual pages and completions into bin/share
# make release test-release  makes archives and packages in dist/; installs one, uses it, removes it
# make torture bench         kills commands hundreds of times; writes BENCHMARKS.md

SHELL := bash
.SHELLFLAGS := -o pipefail -ec
.ONESHELL:

COMMANDS := $(filter-out gbatch,$(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go)))
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME := 3s
SEED := 1
# Without its tables for debuggers the program has 88 MB, not 110.
LDFLAGS := -s -w
TIMEOUT := 60m

.PHONY: build man completions test purego check race lint fuzz torture bench demo demo-vertex test-live install clean release test-release embed flush sync need-db need-cxx

# The linker needs the library of C++ only at the end of a long build.
need-cxx:
	@command -v $(CXX) > /dev/null || { echo "make: there is no C++ compiler $(CXX), which DuckDB needs: install it (Debian: apt-get install g++)" >&2; exit 2; }

build: need-cxx
	@echo "building bin/gbatch and $(words $(COMMANDS)) links to it; the first time takes a minute" >&2
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/gbatch
	for name in $(COMMANDS); do ln -sf gbatch bin/$$name; done
	ln -sf ../packaging/ask bin/ask

man completions: build
	bin/gbatch write-help bin/share
	cp packaging/ask.1 bin/share/man/man1/

# The time limit is long enough for a slow or busy machine. The temporary folder is
# removed even if a test is stopped.
test:
	@echo "compiling and running all tests; this takes some minutes" >&2
	TMPDIR=$$(mktemp -d) && export TMPDIR && trap 'chmod -R u+w "$$TMPDIR" && rm -rf "$$TMPDIR"' EXIT
	go test -timeout $(TIMEOUT) ./...

# The vector code in plain Go: see pkg/vector/README.md.
purego:
	go test -tags purego ./pkg/vector ./pkg/record

# The scripts, with the built programs instead of the test binary.
check: build
	GBATCH_BIN=$(CURDIR)/bin go test . -run TestScripts -count=1 -timeout $(TIMEOUT)

# The scripts start thousands of processes. Without atexit_sleep_ms=0 each of them
# would sleep for a second at its end.
race:
	TMPDIR=$$(mktemp -d) && export TMPDIR && trap 'chmod -R u+w "$$TMPDIR" && rm -rf "$$TMPDIR"' EXIT
	GORACE=atexit_sleep_ms=0 go test -race -short -timeout $(TIMEOUT) ./...

lint:
	test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	go vet ./...
	go vet -C internal/bench ./...
	go mod tidy -diff
	go -C internal/bench mod tidy -diff
	go run $(STATICCHECK) ./...
	# If govulncheck cannot reach its database, there is only a warning.
	out=$$(go run $(GOVULNCHECK) ./... 2>&1) || {
		echo "$$out" >&2
		grep -q 'fetching vulnerabilities' <<<"$$out" || exit 1
		echo "make: warning: known vulnerabilities were not checked" >&2
	}

# Runs each fuzz target for FUZZTIME. If the time ends while an input is tried, go
# test may report a failure, but without a failing input.
fuzz:
	grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' pkg | sort | while IFS=: read -r file target; do
		echo "$${target#func } in $$(dirname $$file)"
		go test ./$$(dirname $$file) -run '^$$' -fuzz "^$${target#func }$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s > fuzz.out 2>&1 ||
			{ grep -q 'context deadline exceeded' fuzz.out && ! grep -q 'Failing input' fuzz.out; } || { cat fuzz.out; exit 1; }
	done
	rm -f fuzz.out

# Hundreds of kills, faults and edits; afterwards the books must be correct.
torture: build
	PATH="$(CURDIR)/bin:$$PATH" go run ./internal/torture --seed $(SEED)

# Compares the commands with other programs; writes BENCHMARKS.md. BENCH="-only users,peer"
# runs some sections, and keeps the other parts of the file. The profiles name
# functions.
bench: LDFLAGS := -w
bench: build
	PATH="$(CURDIR)/bin:$$PATH" go run -C internal/bench . $(BENCH)

demo: build
	PATH="$(CURDIR)/bin:$$PATH" go run ./internal/demo

# The same, with jobs of Vertex AI and a bucket.
demo-vertex: build
	PATH="$(CURDIR)/bin:$$PATH" go run ./internal/demo -vertex

# Sends three chunks to the Gemini API if there is a key, and eight requests to Vertex AI
# if there are a project, a location and a bucket: see docs/vertex.md. Either costs less
# than a hundredth of a cent.
test-live:
	GBATCH_LIVE=1 go test . -run TestLive -count=1 -v -timeout 96h

install: need-cxx
	@echo "installing gbatch; the first time takes a minute" >&2
	go install -ldflags '$(LDFLAGS)' ./cmd/gbatch
	dir=$$(go env GOBIN) && dir=$${dir:-$$(go env GOPATH)/bin}
	for name in $(COMMANDS); do ln -sf gbatch "$$dir/$$name"; done
	install -m 755 packaging/ask "$$dir/ask"
	[[ :$$PATH: == *":$$dir:"* ]] || echo "make: put the commands on your PATH: export PATH=\"$$dir:\$$PATH\"" >&2

clean:
	rm -rf bin demo dist fuzz.out

# Archives and packages of the present commit for Linux, in dist/: see docs/release.md.
# A processor without a C compiler for it is left out.
release:
	@test -z "$$(git status --porcelain --untracked-files=no)" || { echo "make: commit your changes first: a release is made of a commit" >&2; exit 2; }
	umask 022
	export LC_ALL=C TZ=UTC CGO_ENABLED=1 GOFLAGS= SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct)
	export VERSION ARCH STAGE GLIBC GLIBCXX LIBC
	VERSION=$$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-/+/; s/-/./g') || VERSION=0+$$(date -d @$$SOURCE_DATE_EPOCH +%Y%m%d).$$(git rev-parse --short=12 HEAD)
	rm -rf dist
	go build -buildvcs=true -o bin/ ./cmd/gbatch
	go version -m bin/gbatch | grep -q vcs.revision || { echo "make: Go finds no commit here, as in a worktree of git: make the release in a clone" >&2; exit 2; }
	for target in amd64 amd64-static arm64; do
		ARCH=$${target%-static}
		case $$ARCH in amd64) cc=x86_64-linux-gnu-gcc ;; arm64) cc=aarch64-linux-gnu-gcc ;; esac
		command -v $$cc > /dev/null || { echo "make: there is no $$cc, so linux-$$target is left out" >&2; continue; }
		flags='-s -w' tags=
		if [ $$target != $$ARCH ]; then flags='-s -w -linkmode external -extldflags -static' tags=netgo,osusergo; fi
		echo "make: linux-$$target" >&2
		name=gbatch-$$VERSION-linux-$$target STAGE=dist/gbatch-$$VERSION-linux-$$target
		mkdir -p $$STAGE/bin $$STAGE/share/doc/gbatch
		GOOS=linux GOARCH=$$ARCH CC=$$cc CXX=$${cc%gcc}g++ go build -trimpath -buildvcs=true -tags "$$tags" -ldflags "$$flags" -o $$STAGE/bin/ ./cmd/gbatch
		for command in $(COMMANDS); do ln -s gbatch $$STAGE/bin/$$command; done
		install -m 755 packaging/ask $$STAGE/bin/ask
		bin/gbatch write-help $$STAGE/share
		install -m 644 packaging/ask.1 $$STAGE/share/man/man1/ask.1
		cp -r README.md CHANGELOG.md BENCHMARKS.md docs $$STAGE/share/doc/gbatch/
		cp LICENSE $$STAGE/share/doc/gbatch/copyright
		# The sources are not beside the documents: links into them become their texts.
		(cd $$STAGE/share/doc/gbatch && sed -i -E 's#\[([^]]*)\]\(\.\./(Makefile|[^)]*\.go|[^)]*/[^)]*)\)#\1#g; s#\]\((\.\./)?LICENSE\)#](\1copyright)#g' README.md BENCHMARKS.md docs/*.md)
		find $$STAGE -exec touch -h -d @$$SOURCE_DATE_EPOCH {} +
		tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$$SOURCE_DATE_EPOCH -C dist -c $$name | gzip -9n > dist/$$name.tar.gz
		if [ $$target = $$ARCH ]; then
			newest() { $${cc%gcc}objdump -T $$STAGE/bin/gbatch | grep -o "$${1}_[0-9.]*" | sort -uV | tail -1; }
			GLIBC=$$(newest GLIBC) GLIBCXX=$$(newest GLIBCXX) LIBC=$$(newest GLIBC | cut -d_ -f2)
			for format in deb rpm; do go run $(NFPM) package -f packaging/nfpm.yaml -p $$format -t dist/; done
		fi
		rm -rf $$STAGE
	done
	cd dist && sha256sum * > SHA256SUMS

# Needs root and debootstrap: see docs/release.md.
test-release: release
	packaging/test-release

# Your own database. Set the flags of the commands in the environment, such as
# GBATCH_FROM, GBATCH_MODEL or GBATCH_LIMIT.
embed: need-db build
	export PATH="$(CURDIR)/bin:$$PATH"
	chunks-pending "$(DB)" | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply "$(DB)"

flush: need-db build
	export PATH="$(CURDIR)/bin:$$PATH" GBATCH_LIMIT=$${GBATCH_LIMIT:-100000}
	chunks-pending "$(DB)" | to-jsonl | gbatch-submit | vectors-apply "$(DB)"

# Exit code 4 is not a failure: it means that some jobs have not ended.
sync: need-db build
	export PATH="$(CURDIR)/bin:$$PATH"
	jobs-pending "$(DB)" | gbatch-wait --once | gbatch-fetch | vectors-apply "$(DB)" || test $$? = 4

need-db:
	@test -n "$(DB)" || { echo "make: no database is given: make $(MAKECMDGOALS) DB=kb.duckdb" >&2; exit 2; }
