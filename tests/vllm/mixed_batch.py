"""Requests with and without the constraint in one batch of an engine, for any of vLLM's runners."""

import torch


def check_mixed_batch(engine, policy, prompts, tokenizer, repeats: int) -> None:
    """Draws of constrained requests are whole semantic IDs and an end; the others are not held to any."""
    from vllm import SamplingParams, TokensPrompt  # a test of the V2 runner changes what vLLM finds when it is imported

    ids, trie = prompts.token_lists(), policy.trie
    begun = ids[0] + policy.tokens[trie.path(torch.tensor(7))[1:3]].tolist()
    asked = [(ids[0], None), (ids[1], 0), (begun, 2), (ids[1], None)] * repeats
    params = [
        SamplingParams(seed=seed, max_tokens=8, detokenize=False, extra_args=None if n is None else {"trie": n})
        for seed, (_, n) in enumerate(asked)
    ]
    done = engine.llm.generate([TokensPrompt(prompt_token_ids=p) for p, _ in asked], params, use_tqdm=False)
    valid = {tuple(path) for path in policy.tokens[trie.path(torch.arange(48))[:, 1:]].tolist()}
    free = 0
    for (prompt, prefix), output in zip(asked, done, strict=True):
        drawn = tuple(output.outputs[0].token_ids)
        if prefix is None:
            free += drawn[:4] not in valid
        else:
            whole = tuple(prompt[len(prompt) - prefix :]) + drawn
            assert whole[:-1] in valid and whole[-1] == tokenizer.eos_token_id
    assert free > repeats / 2
