# Every target sets up what it needs: a virtual environment with the locked dependencies.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := cli.py bench console dht identity peer queueing rpc simulation transfer tools tests
# Two workers, since the test machines have two cores.
WORKERS ?= 2

.PHONY: demo test lint check protos lock svg clean help setup bench-setup bench-dht bench-transfer simulate bench-publish bench-queueing bench-local fuzz torture

help:
	@echo "make demo   a private network of real processes on this machine, the whole story in half a minute"
	@echo "make test   lint, types, import contracts, protos current, all tests (with a private RabbitMQ)"
	@echo "make setup  only the virtual environment · make protos · make lock · make svg · make clean"
	@echo "make simulate   the DHT at up to 10,000 peers on a virtual clock, hours; SCALE=small: short runs, minutes"
	@echo "make fuzz   a million random and mutated datagrams, then the decoders under coverage; ten minutes"
	@echo "make torture  receivers killed a hundred times and other long fault runs; an hour (TORTURE=cluster: three RabbitMQ nodes)"
	@echo "make bench-dht  the DHT beside stock kademlia and OpenDHT, five minutes"
	@echo "make bench-transfer  transfers beside libtorrent, magic-wormhole, aria2, a plain TLS copy; six minutes"
	@echo "make bench-publish  what publishing 10,000 files on 100 peers costs, some minutes"
	@echo "make bench-local  how fast commands start and files are hashed, one minute"
	@echo "make bench-queueing  deliveries beside bare pika and plain gRPC uploads, some minutes"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml tools/venv.sh
	@PYTHON="$(PYTHON)" sh tools/venv.sh $(VENV)
	@touch $@

demo: $(STAMP)
	@$(BIN)/shoal demo $(DEMO)

test: $(STAMP)
	@BIN="$(BIN)" WORKERS="$(WORKERS)" SOURCES="$(SOURCES)" bash tools/check.sh

lint: $(STAMP)
	@BIN="$(BIN)" SOURCES="$(SOURCES)" LINT_ONLY=1 bash tools/check.sh

protos: $(STAMP)
	$(BIN)/python tools/protos.py

svg: $(STAMP)
	$(BIN)/python tools/table_svg.py docs/table.svg

# On top of the locked dependencies: what the benchmarks, plots and fuzzers need, and nothing else does.
BENCH_STAMP := $(VENV)/.bench-installed
bench-setup: $(BENCH_STAMP)

$(BENCH_STAMP): requirements-bench.lock $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

# FUZZ="--count 100000 --seed 7" repeats a run. The second stage needs atheris, which is for Linux.
RUNS ?= 2000000
fuzz: $(BENCH_STAMP)
	@$(BIN)/python -m tests.fuzz.datagrams $(FUZZ)
	@if $(BIN)/python -c "import atheris" 2>/dev/null; \
	then $(BIN)/python -m tests.fuzz.decoders -runs=$(RUNS); \
	else echo "no atheris here: the decoders are not fuzzed under coverage"; fi

# Long fault runs; TORTURE="transfers --runs 10 --seed 7" repeats one of them.
torture: $(STAMP)
	@nice -n 10 $(BIN)/python -m tests.torture $(TORTURE)

# Beside stock kademlia and OpenDHT; BENCH="--json FILE" and the like are passed on.
bench-dht: $(BENCH_STAMP)
	@$(BIN)/python -m bench.dht $(BENCH)

# Transfers beside libtorrent, magic-wormhole, aria2 with nginx, a plain TLS copy, iperf3. The Debian
# packages aria2, nginx and iperf3 are used where they are installed. BENCH="--only shoal --runs 1".
bench-transfer: $(BENCH_STAMP)
	@$(BIN)/python -m bench.transfer $(BENCH)

SCALE ?= full
simulate: $(BENCH_STAMP)
	@nice -n 10 $(BIN)/python tools/simulations.py --scale $(SCALE)

# What publishing 10,000 files in a network of 100 peers costs; BENCH="--files 1000" and the like.
bench-publish: $(STAMP)
	@$(BIN)/python -m bench.publish $(BENCH)

# How fast commands start, a request is answered, files are hashed; BENCH="--repetitions 30" and the like.
bench-local: $(STAMP)
	@$(BIN)/python -m bench.local $(BENCH)

# Deliveries beside bare pika, plain gRPC uploads and get; starts a private RabbitMQ of its own.
bench-queueing: $(STAMP)
	@$(BIN)/python -m bench.queueing $(BENCH)

# Hashes, and no registry's address: the lock says what, the machine's configuration says from where.
# deploy/requirements.lock is what an installed peer needs, and setuptools to build it.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate pyproject.toml
lock:
	$(LOCK) --extra dev -o requirements.lock
	$(LOCK) --extra dev --extra bench --constraints requirements.lock -o requirements-bench.lock
	echo "setuptools>=77" | $(LOCK) - --constraints requirements.lock -o deploy/requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
