"""The worker behind the sampler `policy`: an engine that holds a copy of the policy's weights and draws.

- `engine`: the `RolloutEngine` protocol
- `sampler`: `RolloutSampler`, trajectories of an engine, also drawn before the step that reads them
- `engine_policy`: `EnginePolicy`, beams, draws and log-probabilities of an engine without a model in this process
- `vllm_engine`: vLLM in this process; `constraint`: the trie among its logits processors; `skeleton`: the folder that
  it starts from
- `server`, `client`: an engine behind HTTP, and the engine of a run that calls it; `http_client`: its
  bounds of time and size
- `weights`: the policy's weights, whatever they are sharded or adapted by, bucket by bucket
"""
