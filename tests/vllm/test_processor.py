"""The logits processor by itself, in the hands of either model runner."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

from aim_plugins.engines.vllm import ChangesVLLMProcessor
from aim_plugins.engines.vllm.parameters import RequestModulation
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor
from aim_plugins.modulation.sampling import KeyedSamplingProcessor

VOCABULARY = 300
CPU = torch.device("cpu")


def configuration(*, enforce_eager: bool = True) -> SimpleNamespace:
    # A class of its own, as the processor refers to it weakly.
    class Configuration(SimpleNamespace):
        pass

    return Configuration(model_config=SimpleNamespace(enforce_eager=enforce_eager))


def parameters(std: float, seed: int = 0, mean: float = 0.0) -> SamplingParams:
    return SamplingParams(extra_args={"aim_std": std, "aim_seed": seed, "aim_mean": mean})


def by_transformers(logits: torch.Tensor, tokens: list[int], asked: SamplingParams) -> torch.Tensor:
    """The row that the processor for transformers makes of the same logits and tokens."""
    noise = GaussianNoiseLogitsProcessor(
        asked.extra_args["aim_std"], asked.extra_args["aim_mean"], asked.extra_args["aim_seed"]
    )
    return noise(torch.tensor([tokens]), logits[None])[0]


def added(processor, rows, *, removed=(), moved=(), size: int) -> None:
    """Hands the first runner's changes of the batch to the processor."""
    processor.update_state(
        BatchUpdate(batch_size=size, removed=list(removed), added=rows, moved=list(moved))
    )


def test_rows_get_the_noise_of_transformers_while_requests_join_move_and_leave() -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    asked = [parameters(0.5, 3), parameters(2.0, 4, mean=1.0), parameters(0.0), parameters(1.0)]
    prompts = [[5], [7, 8, 9], [1, 2], [250, 0, 0, 17]]
    outputs: list[list[int]] = [[], [], [], [9, 9]]  # the last one resumes after a preemption
    added(
        processor,
        [(row, asked[row], prompts[row], outputs[row]) for row in range(4)],
        size=4,
    )
    order = [0, 1, 2, 3]
    for step in range(6):
        if step == 2:  # two rows change places
            added(processor, [], moved=[(0, 3, MoveDirectionality.SWAP)], size=4)
            order = [3, 1, 2, 0]
        if step == 4:  # a request leaves and the last row fills its place
            added(
                processor,
                [],
                removed=[1],
                moved=[(3, 1, MoveDirectionality.UNIDIRECTIONAL)],
                size=3,
            )
            order = [3, 0, 2]
        clean = torch.randn(len(order), VOCABULARY, generator=torch.Generator().manual_seed(step))
        noisy = processor.apply(clean.clone())
        for row, request in enumerate(order):
            tokens = prompts[request] + outputs[request]
            expected = by_transformers(clean[row], tokens, asked[request])
            assert torch.equal(noisy[row], expected)
        for request in order:
            outputs[request].append((17 * step + request) % VOCABULARY)


def sampling(seed: int, std: float = 0.0, **settings: float) -> SamplingParams:
    asked = {"aim_std": std, "aim_seed": seed, "aim_mean": 0.0}
    return SamplingParams(
        temperature=0.0, extra_args=asked | {"aim_sampling": {"seed": seed, **settings}}
    )


def drawn_by_transformers(
    logits: torch.Tensor, tokens: list[int], asked: SamplingParams, warper: LogitsProcessor
) -> int:
    ids = torch.tensor([tokens])
    scores = warper(ids, by_transformers(logits, tokens, asked)[None])
    draw = KeyedSamplingProcessor(asked.extra_args["aim_sampling"]["seed"])
    return int(draw(ids, scores).argmax())


def test_rows_that_sample_keep_one_token_beside_rows_that_do_not() -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    cold, narrow = {"temperature": 0.5, "top_k": 0}, {"top_k": 4}
    asked = [
        parameters(0.5, 3),
        sampling(1, **cold),
        SamplingParams(temperature=0.0),
        sampling(2, std=2.0, **narrow),
        sampling(3, std=1.0, **cold),
    ]
    by_row = {
        1: TemperatureLogitsWarper(0.5),
        3: TopKLogitsWarper(4),
        4: TemperatureLogitsWarper(0.5),
    }
    prompts = [[5], [7, 8], [9], [7, 8], [4, 4, 4]]
    added(processor, [(row, asked[row], prompts[row], []) for row in range(5)], size=5)
    clean = torch.randn(5, VOCABULARY, generator=torch.Generator().manual_seed(0))
    result = processor.apply(clean.clone())
    assert torch.equal(result[0], by_transformers(clean[0], prompts[0], asked[0]))
    assert torch.equal(result[2], clean[2])
    for row, warper in by_row.items():
        token = drawn_by_transformers(clean[row], prompts[row], asked[row], warper)
        assert result[row].isfinite().nonzero().tolist() == [[token]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.7, "aim_sampling=0.7 is no mapping"),
        ({"seed": 0.5}, "aim_sampling: seed=0.5 is no 64-bit integer"),
        ({"seed": 0, "tempreature": 1.0}, "tempreature=1.0 is no option of sampling"),
        ({"seed": 0, "top_p": "much"}, "top_p='much' is no finite number"),
        ({"seed": 0, "typical_p": float("nan")}, "typical_p=nan is no finite number"),
        ({"seed": 0, "temperature": -1.0}, "temperature"),
    ],
)
def test_sampling_out_of_range_is_refused(value: object, message: str) -> None:
    asked = SamplingParams(temperature=0.0, extra_args={"aim_sampling": value})
    with pytest.raises(ValueError, match=message):
        ChangesVLLMProcessor.validate_params(asked)


def test_tokens_are_not_drawn_twice() -> None:
    asked = SamplingParams(temperature=0.7, extra_args={"aim_sampling": {"seed": 0}})
    with pytest.raises(ValueError, match=r"temperature=0\.7: vLLM would draw once more"):
        ChangesVLLMProcessor.validate_params(asked)


@pytest.mark.parametrize(
    ("name", "value"),
    [("repetition_penalty", 1.2), ("frequency_penalty", 0.5), ("presence_penalty", -0.5)],
)
def test_penalties_that_would_come_after_the_draw_are_refused(name: str, value: float) -> None:
    asked = sampling(0)
    setattr(asked, name, value)
    with pytest.raises(ValueError, match=f"{name}={value}: vLLM penalises tokens after the draw"):
        ChangesVLLMProcessor.validate_params(asked)


def test_second_runner_gets_the_noise_of_transformers() -> None:
    slots, width = 6, 12
    tokens = torch.randint(VOCABULARY, (slots, width), generator=torch.Generator().manual_seed(0))
    state = SimpleNamespace(
        device=CPU, max_num_reqs=slots, all_token_ids=SimpleNamespace(gpu=tokens.int())
    )
    processor = ChangesVLLMProcessor(configuration(), state)
    asked = {4: parameters(0.7, 1), 0: parameters(0.0), 2: parameters(1.5, 2, mean=-1.0)}
    asked[5] = sampling(6, top_k=9)
    takes = {slot: processor.add_request(slot, given) for slot, given in asked.items()}
    assert takes == {4: True, 0: False, 2: True, 5: True}
    lengths = [9, 3, 5, 12]
    clean = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    index = torch.tensor(list(asked))
    noisy = processor.apply(
        clean.clone(),
        LogitsContext(
            expanded_idx_mapping=index,
            idx_mapping=index,
            idx_mapping_np=index.numpy(),
            expanded_local_pos=torch.zeros(4, dtype=torch.int32),
            input_ids=torch.zeros(4, dtype=torch.int32),
            pos=torch.tensor(lengths) - 1,
            seq_lens_upper_bound_np=np.array(lengths),
        ),
    )
    token = drawn_by_transformers(clean[3], tokens[5].tolist(), asked.pop(5), TopKLogitsWarper(9))
    assert noisy[3].isfinite().nonzero().tolist() == [[token]]
    for row, (slot, given) in enumerate(asked.items()):
        expected = by_transformers(clean[row], tokens[slot, : lengths[row]].tolist(), given)
        assert torch.equal(noisy[row], expected)


def test_slot_of_the_second_runner_forgets_who_had_it_before() -> None:
    state = SimpleNamespace(device=CPU, max_num_reqs=1, all_token_ids=None)
    processor = ChangesVLLMProcessor(configuration(), state)
    processor.add_request(0, parameters(3.0))
    assert not processor.add_request(0, SamplingParams())


def test_vllm_may_not_skip_greedy_requests() -> None:
    assert not ChangesVLLMProcessor(configuration(), CPU, False).is_argmax_invariant()


def test_batch_without_noise_is_handed_back_untouched() -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    added(processor, [(0, SamplingParams(), [1], [])], size=1)
    logits = torch.randn(1, VOCABULARY)
    before = logits.clone()
    assert processor.apply(logits) is logits
    assert torch.equal(logits, before)


def test_processor_that_is_loaded_twice_adds_its_noise_once() -> None:
    config = configuration()
    both = [ChangesVLLMProcessor(config, CPU, False) for _ in range(2)]
    clean = torch.randn(1, VOCABULARY)
    logits = clean.clone()
    for processor in both:
        added(processor, [(0, parameters(1.0), [1, 2], [])], size=1)
        logits = processor.apply(logits)
    assert torch.equal(logits[0], by_transformers(clean[0], [1, 2], parameters(1.0)))


@pytest.mark.parametrize("output", [[4, -1], [-1]])
def test_placeholder_of_asynchronous_scheduling_is_never_hashed(output: list[int]) -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    added(processor, [(0, parameters(1.0), [1, 2], output)], size=1)
    with pytest.raises(RuntimeError, match="async_scheduling=False"):
        processor.apply(torch.zeros(1, VOCABULARY))


def test_placeholder_is_refused_when_it_is_the_only_new_token() -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    output: list[int] = []
    added(processor, [(0, parameters(1.0), [1, 2], output)], size=1)
    processor.apply(torch.zeros(1, VOCABULARY))
    output.append(-1)
    with pytest.raises(RuntimeError, match="placeholder"):
        processor.apply(torch.zeros(1, VOCABULARY))


def test_compiled_noise_is_the_eager_noise_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIM_PLUGINS_COMPILE", raising=False)
    clean = torch.zeros(2, VOCABULARY)
    results = []
    for eager in (True, False):
        processor = ChangesVLLMProcessor(configuration(enforce_eager=eager), CPU, False)
        added(
            processor,
            [(row, parameters(1.0, row), [row, 2], []) for row in range(2)],
            size=2,
        )
        results.append(processor.apply(clean.clone()))
    assert torch.allclose(*results, atol=1e-5)
    assert results[0].abs().max() > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"aim_sdt": 1.0}, "aim_sdt=1.0 is no argument of aim-plugins: did you mean 'aim_std'"),
        ({"aim_std": -0.5}, "aim_std=-0.5 is negative"),
        ({"aim_std": float("nan")}, "aim_std=nan is not finite"),
        ({"aim_std": "much"}, "aim_std='much' is a str"),
        ({"aim_std": True}, "aim_std=True is a bool"),
        ({"aim_std": 1.0, "aim_seed": 0.5}, "aim_seed=0.5 is no 64-bit integer"),
        ({"aim_std": 1.0, "aim_seed": 2**63}, "is no 64-bit integer"),
        ({"aim_std": 1.0, "aim_mean": float("inf")}, "aim_mean=inf is not finite"),
        ({"aim_std": 1.0, "aim_mean": True}, "aim_mean=True is a bool"),
        ({"aim_std": 1e39}, r"aim_std=1e\+39 is beyond 10000: give a number from 0 to 10000"),
        ({"aim_mean": -1e300}, r"aim_mean=-1e\+300 is beyond 10000: .* from -10000 to 10000"),
        ({"aim_strength": 1e39}, r"aim_strength=1e\+39 is beyond 100: .* from -100 to 100"),
    ],
)
def test_argument_out_of_range_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChangesVLLMProcessor.validate_params(SamplingParams(extra_args=given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"aim_temprature": 1.0}, "did you mean 'aim_temperature'"),
        ({"aim_temperature": 0.0}, "aim_temperature=0.0 is out of range: .* from 0.01 upwards"),
        ({"aim_temperature": 1e39}, "aim_temperature=1e.39 is beyond 10000: .* from 0.01 to 10000"),
        ({"aim_share": 1.5}, "aim_share=1.5 is out of range: give a number from 0 to 1"),
        ({"aim_share": 0.5}, "aim_share=0.5 changes weights"),
        ({"aim_angle": 0.5}, "aim_angle=0.5 changes activations by other than affine maps"),
    ],
)
def test_argument_of_a_registered_kind_is_read_by_its_axis(
    toy_kinds: None, given: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ChangesVLLMProcessor.validate_params(SamplingParams(extra_args=given))


def test_identity_of_a_kind_that_vllm_cannot_run_is_taken(toy_kinds: None) -> None:
    ChangesVLLMProcessor.validate_params(
        SamplingParams(extra_args={"aim_share": 0.0, "aim_angle": 0, "aim_temperature": 1})
    )


def test_changes_of_a_row_follow_one_another_beside_rows_of_other_kinds(toy_kinds: None) -> None:
    processor = ChangesVLLMProcessor(configuration(), CPU, False)
    noise = {"aim_std": 2.0, "aim_seed": 3, "aim_mean": 1.0}
    asked = [noise, noise | {"aim_temperature": 0.5}, {"aim_temperature": 4.0}, {}]
    prompts = [[5], [7, 8], [9], [7, 8]]
    given = [SamplingParams(extra_args=one) for one in asked]
    added(processor, [(row, given[row], prompts[row], []) for row in range(4)], size=4)
    clean = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0))
    result = processor.apply(clean.clone())
    assert torch.equal(result[0], by_transformers(clean[0], prompts[0], given[0]))
    assert torch.equal(result[1], by_transformers(clean[1], prompts[1], given[1]) / 0.5)
    assert torch.equal(result[2], clean[2] / 4)
    assert torch.equal(result[3], clean[3])


@pytest.mark.parametrize("name", ["aim_std", "aim_mean", "aim_strength", "aim_seed", "aim_sdt"])
@pytest.mark.parametrize("value", [1e300, 10**400], ids=["float", "integer"])
def test_huge_numbers_are_refused_in_a_short_message(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        RequestModulation.read({name: value})
    assert len(str(refused.value)) < 200


def test_arguments_of_other_plugins_are_left_alone() -> None:
    ChangesVLLMProcessor.validate_params(SamplingParams(extra_args={"other": "anything"}))


@pytest.mark.parametrize(
    ("name", "value"), [("prompt_logprobs", 1), ("prompt_logprob_token_ids", [[3]])]
)
def test_log_likelihoods_of_a_prompt_are_refused_with_noise(name: str, value: object) -> None:
    asked = SamplingParams(extra_args={"aim_std": 1.0}, **{name: value})
    with pytest.raises(ValueError, match=f"does not reach {name}="):
        ChangesVLLMProcessor.validate_params(asked)


@pytest.mark.parametrize("length", [0, True, 1.5, 2**31, 10**30, 1e30, float("inf"), "3"])
def test_prompt_lengths_that_no_prompt_has_are_refused(length: object) -> None:
    with pytest.raises(ValueError, match="aim_prompt_length=.* is no number of tokens"):
        RequestModulation.read({"aim_prompt_length": length})


def test_prompt_lengths_are_read_as_json_writes_them() -> None:
    assert RequestModulation.read({"aim_prompt_length": 12.0}).prompt_length == 12
