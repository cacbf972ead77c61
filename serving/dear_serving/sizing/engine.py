"""One vLLM engine on one GPU: memory, the time of its passes, and how much it does when it is full."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dear_serving.sizing.figures import Efficiency, EngineFigures, Gpu, Host
from dear_serving.sizing.model import Model, Quantisation
from dear_serving.sizing.workload import Workload


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a card: what vLLM may use, and what for. ``cache_tokens`` fit what is left."""

    usable: float
    weights: float
    adapters: float
    working: float
    cache: float
    cache_tokens: int


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine and what it is calculated with.

    Args:
        quantisation: how the base's weights are kept.
        rank: of its adapters; ``slots`` of them have room in memory, 0 for none.
        max_model_len: tokens of prompt and answer.
        slowness: how many times as long the engine takes as calculated, where it was measured; ``delay`` the
            same for a request that is alone.
    """

    gpu: Gpu
    model: Model
    quantisation: Quantisation
    rank: int
    slots: int
    efficiency: Efficiency
    host: Host
    settings: EngineFigures
    max_model_len: int
    slowness: float = 1.0
    delay: float = 1.0

    def measured(self, slowness: float, delay: float) -> Engine:
        """The same with measured factors."""
        return replace(self, slowness=slowness, delay=delay)

    @property
    def memory(self) -> Memory:
        """The card's memory; ``cache`` is below 0 where the weights do not fit."""
        usable = self.gpu.memory_bytes * self.settings.memory_share
        weights = self.model.weight_bytes(self.quantisation)
        adapters = float(self.slots * self.model.adapter_bytes(self.rank))
        working = self.settings.working_gb * 1e9
        cache = usable - weights - adapters - working
        tokens = max(0, int(cache / self.model.cache_bytes_a_token))
        return Memory(usable, weights, adapters, working, cache, tokens)

    @property
    def fits(self) -> bool:
        """Whether vLLM would start: the cache holds one request of the model's length."""
        return self.memory.cache_tokens >= self.max_model_len

    def batch(self, work: Workload) -> int:
        """Windows that are decoded together when it is full."""
        return min(self.settings.max_num_seqs, self.memory.cache_tokens // max(1, work.window_tokens))

    @property
    def bytes_s(self) -> float:
        """Bytes read a second, as work reaches them."""
        return self.gpu.bytes_s * self.efficiency.memory

    @property
    def flop_s(self) -> float:
        """FLOP a second of the layers' products, as work reaches them."""
        return self.gpu.flop_s(self.quantisation.numbers) * self.efficiency.compute

    def token_s(self) -> float:
        """A token through the layers, its adapter included."""
        return self.model.flop_a_token / self.flop_s + self.adapter_token_s

    @property
    def adapter_token_s(self) -> float:
        """A token through an adapter: products too narrow to fill a card."""
        if not self.slots:
            return 0.0
        return 2.0 * self.model.adapter_weights(self.rank) / (self.gpu.flop_s() * self.efficiency.lora)

    def attention_s(self, work: Workload) -> float:
        """Attention over all prompts of a request, within each window."""
        windows = max(1, work.windows)
        flop = windows * self.model.attention_flop(round(work.tokens / windows))
        return flop / (self.gpu.flop_s() * self.efficiency.compute)

    def prompts_s(self, work: Workload) -> float:
        """All prompts of a request."""
        return work.tokens * self.token_s() + self.attention_s(work)

    def read_s(self) -> float:
        """Reading the weights once."""
        return self.model.read_bytes(self.quantisation) / self.bytes_s

    def passes(self, work: Workload) -> float:
        """Forward passes of a request, one after the other."""
        return work.rounds * work.passes_a_window(self.settings.passes_a_passage)

    def floor_s(self, work: Workload) -> float:
        """A request alone, without the host: its prompts, and the weights read once a pass."""
        return self.prompts_s(work) + self.passes(work) * self.read_s()

    def pass_s(self, work: Workload, windows: float) -> float:
        """A pass that decodes so many windows: the longer of reading (weights, adapters, caches) and
        computing, and the host.
        """
        adapters = min(self.slots, windows) * self.model.adapter_bytes(self.rank)
        cached = windows * work.window_tokens * self.model.cache_bytes_a_token
        read_s = self.read_s() + (adapters + cached) / self.bytes_s
        tokens = windows * work.tokens_a_choice / min(1.0, self.settings.passes_a_passage)
        head_s = self.model.head_flop / (self.gpu.flop_s() * self.efficiency.compute)
        return max(read_s, tokens * (self.token_s() + head_s)) + self.host.pass_s(windows)

    def alone_s(self, work: Workload) -> float:
        """A request on an idle server, the gateway included."""
        decode_s = self.passes(work) * self.pass_s(work, work.windows_a_round)
        whole_s = self.prompts_s(work) + decode_s + work.tokens * self.host.token_s + self.host.request_s
        return self.delay * whole_s

    def busy_s(self, work: Workload) -> float:
        """Seconds that a request takes of a full engine: its prompts, and its part of passes that it shares.

        Infinite where the cache does not hold one window.
        """
        if not (windows := self.batch(work)):
            return float("inf")
        passes = work.windows * work.passes_a_window(self.settings.passes_a_passage)
        decode_s = passes * self.pass_s(work, windows) / windows
        return self.slowness * (
            self.prompts_s(work) + decode_s + work.tokens * self.host.token_s + self.host.busy_s
        )
