"""The starting weights: a rough ranking circuit written into a Llama, which training then refines.

Layer 0 gathers the word that just ended, 1 the passage a token is in, 2 matches words with the query,
3 collects the identifiers written so far, 4 counts the matches of a passage, and 5
chooses the passage with most of them among the rest. All else starts as small noise.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from configs.demo.maker import layout as at
from configs.demo.maker.export import base_config
from configs.demo.maker.prompts import plain_prompt

THETA, PAIRS, HEAD = 1e8, 32, 64
SCALE = math.sqrt(HEAD)  # what softmax divides scores by
SLOW = [
    *range(14, 31),
    *range(14 + PAIRS, 31 + PAIRS),
]  # hardly rotate within 4,000 tokens: content
# The two components of a pair mix as it rotates, so the first 22 identifiers get the 11 slowest pairs.
SEGMENTS = [pair + part for pairs in (range(30, 19, -1), range(19, 14, -1)) for part in (0, PAIRS)
            for pair in pairs]  # fmt: skip
BIAS = 31  # first component of the slowest pair: flags and sinks
NOISE = 0.02
PIECES = (1.0, 0.8, 0.6)  # weights of a word's last three pieces, last first, in a comparison
EXACT_MATCH = sum(PIECES)
WORD_NATS, QUERY_NATS, SEGMENT_NATS, MATCH_NATS = 20.0, 30.0, 20.0, 8.0
WRITTEN_NATS = 1500.0  # divided by 10 + m where m identifiers are written
OPEN_GATE = 4 / (1 + math.exp(-4))  # silu(4)


class HeadWriter:
    """Writes one attention head; a score is in nats, a pattern reads the normalised residual."""

    def __init__(self, model: LlamaForCausalLM, layer: int, head: int) -> None:
        attention = model.model.layers[layer].self_attn
        rows = slice(head * HEAD, (head + 1) * HEAD)
        self.query = attention.q_proj.weight.data[rows]  # [64, hidden]
        self.key = attention.k_proj.weight.data[rows]
        self.value = attention.v_proj.weight.data[rows]
        self.output = attention.o_proj.weight.data[:, rows]  # [hidden, 64]
        for weight in (self.query, self.key, self.value, self.output):
            weight.zero_()

    def constant_query(self, components: Tensor) -> None:
        """The same query at every token: components [64]."""
        self.query[:, at.CONST] += components / at.CONST_VALUE

    def bias(self, flags: dict[int, float], constant: float = 0.0) -> None:
        """Adds to the score of a key the sum of its flags times their nats."""
        self.query[BIAS, at.CONST] = SCALE / at.CONST_VALUE
        for flag, nats in flags.items():
            self.key[BIAS, flag] += nats
        self.key[BIAS, at.CONST] += constant / at.CONST_VALUE

    def same(self, region: slice, projection: Tensor, components: list[int], nats: float) -> None:
        """Scores nats * <P q, P k> of one region, written into slow components."""
        root = math.sqrt(nats * SCALE)
        self.query[components, region] += root * projection
        self.key[components, region] += root * projection

    def copy(self, source: slice, target: slice, matrix: Tensor, first: int = 0) -> None:
        """Moves region `source` of the keys, through matrix, to region `target` of the query."""
        width = source.stop - source.start
        self.value[first : first + width, source] = torch.eye(width)
        self.output[target, first : first + width] = matrix

    def flag(self, reads: dict[int, float], target: int, slot: int) -> None:
        """Adds the attention-weighted sum of the keys' flags to one dimension."""
        for source, gain in reads.items():
            self.value[slot, source] += gain
        self.output[target, slot] = 1.0


def only_identifiers() -> Tensor:
    """Mask [32] of the places of a code that belong to an identifier, not to a separator."""
    return (torch.arange(32) < at.IDENTIFIERS).float()


def offset_query(offset: int) -> Tensor:
    """Query [64] that scores the key `offset` tokens back highest, against unit keys."""
    angles = at.frequencies(THETA, PAIRS)[:10] * offset
    power = torch.tensor([150.0] * 3 + [60.0] * 7)
    components = torch.zeros(HEAD)
    components[:10] = power * angles.cos().float()
    components[PAIRS : PAIRS + 10] = -power * angles.sin().float()
    return components


def gather_words(model: LlamaForCausalLM, nothing: Tensor, query_end: Tensor) -> None:
    """Layer 0: the last two pieces of the word that ended just before each token; "query" + ":"."""
    heads = [HeadWriter(model, 0, head) for head in range(3)]
    for head, offset in zip(heads, (1, 1, 2), strict=True):
        head.constant_query(offset_query(offset))
        head.key[:10, at.CONST] = 1 / at.CONST_VALUE
    heads[0].copy(at.WORD, at.LAST, torch.eye(at.CODE))
    heads[0].flag({at.START: 1.0}, at.PREV_START, at.CODE)
    heads[0].flag({at.STOP: 1.0}, at.PREV_STOP, at.CODE + 1)
    heads[1].copy(at.IDENTIFIER, at.PREV_IDENTIFIER, torch.diag(only_identifiers()))
    heads[2].copy(at.WORD, at.BEFORE_LAST, torch.eye(at.CODE))
    mlp = model.model.layers[0].mlp
    gate, up, down = mlp.gate_proj.weight.data, mlp.up_proj.weight.data, mlp.down_proj.weight.data
    for weight in (gate[: 2 * at.CODE + 1], up[: 2 * at.CODE + 1], down[:, : 2 * at.CODE + 1]):
        weight.zero_()
    # Where the last piece begins a word, what came before it is replaced by the code of "nothing".
    replace = slice(0, at.CODE)
    gate[replace, at.CONST], gate[replace, at.PREV_START] = -4 / at.CONST_VALUE, 8.0
    up[replace, at.BEFORE_LAST] = -torch.eye(at.CODE)
    up[replace, at.CONST] = nothing / at.CONST_VALUE
    down[at.BEFORE_LAST, replace] = torch.eye(at.CODE) / OPEN_GATE
    # The token's own code makes room for a third piece.
    erase = slice(at.CODE, 2 * at.CODE)
    gate[erase, at.CONST], gate[erase, at.BEGINNING] = 4 / at.CONST_VALUE, -8.0
    up[erase, at.WORD] = -torch.eye(at.CODE)
    up[erase, at.CONST] = nothing / at.CONST_VALUE
    down[at.WORD, erase] = torch.eye(at.CODE) / OPEN_GATE
    # The ":" after "query" opens the query's segment.
    colon = 2 * at.CODE
    gate[colon, at.COLON], gate[colon, at.LAST] = 40.0, 40.0 * query_end / query_end.square().sum()
    gate[colon, at.CONST] = -60 / at.CONST_VALUE
    up[colon, at.CONST] = 1 / at.CONST_VALUE
    down[[at.CLOSE, at.PREV_IDENTIFIER.start + 30], colon] = 1 / 20


def find_segments(model: LlamaForCausalLM, nothing: Tensor, user_end: Tensor) -> None:
    """Layer 1: the identifier before the nearest "]"; whose turn it is; the word's third last piece."""
    head = HeadWriter(model, 1, 0)
    kernel = at.distance_kernel(THETA, PAIRS, 0.8, 100)
    head.constant_query(kernel / 4)
    head.query[BIAS, at.CONST] += 110 * SCALE / 4 / at.CONST_VALUE
    head.key[:PAIRS, at.CLOSE] = 4.0
    head.copy(at.PREV_IDENTIFIER, at.SEGMENT, torch.eye(32))
    turn = HeadWriter(model, 1, 2)
    turn.constant_query(kernel / 4)
    turn.query[BIAS, at.CONST] += 110 * SCALE / 4 / at.CONST_VALUE
    turn.key[:PAIRS, at.HEADER] = 4.0
    turn.value[0, at.LAST] = user_end
    turn.output[at.USER, 0] = 1.0
    third = HeadWriter(model, 1, 1)
    third.constant_query(offset_query(1))
    third.key[:10, at.CONST] = 1 / at.CONST_VALUE
    third.query[BIAS, at.PREV_START] = 300 * SCALE  # a word of one piece has no third
    third.key[BIAS, at.BEGINNING] = 1.0
    third.copy(at.BEFORE_LAST, at.WORD, torch.eye(at.CODE))
    third.value[: at.CODE, at.CONST] = -nothing / at.CONST_VALUE  # which layer 0 left there
    third.value[: at.CODE, at.BEGINNING] = nothing


def match_words(model: LlamaForCausalLM, views: list[list[Tensor]]) -> None:
    """Layer 2: each head looks for the finished word in the query; else it rests on the first token."""
    for index, pieces in enumerate(views):
        head = HeadWriter(model, 2, index)
        regions = zip((at.LAST, at.BEFORE_LAST, at.WORD), pieces, PIECES, strict=True)
        first = 0
        for region, view, weight in regions:
            head.same(region, view, SLOW[first : first + len(view)], WORD_NATS * weight)
            first += len(view)
        sink = WORD_NATS * (EXACT_MATCH - 0.5) + 2 * QUERY_NATS
        flags = {at.QUERY_SEGMENT: QUERY_NATS, at.START: QUERY_NATS, at.PREV_STOP: -QUERY_NATS}
        head.bias(flags | {at.BEGINNING: sink}, constant=-2 * QUERY_NATS)
        head.flag({at.QUERY_SEGMENT: 1.0}, at.MATCH.start + index, 0)


def flag_matches(model: LlamaForCausalLM) -> None:
    """Layer 2's MLP: one flag out of four heads, at tokens where a word ended that may count."""
    mlp = model.model.layers[2].mlp
    gate, up, down = mlp.gate_proj.weight.data, mlp.up_proj.weight.data, mlp.down_proj.weight.data
    slope = 8.0
    for unit, (threshold, sign) in enumerate(((1.4, 1.0), (2.2, -1.0))):
        for weight in (gate[unit], up[unit], down[:, unit]):
            weight.zero_()
        gate[unit, at.MATCH] = slope
        gate[unit, at.START], gate[unit, at.PREV_STOP] = 4 * slope, -4 * slope
        gate[unit, at.CONST] = -slope * (threshold + 4) / at.CONST_VALUE
        up[unit, at.CONST] = 1 / at.CONST_VALUE
        down[at.MATCHED, unit] = sign / (0.8 * slope)


def collect_written(model: LlamaForCausalLM) -> None:
    """Layer 3: the codes of the m identifiers written so far, summed and divided by 10 + m."""
    written = HeadWriter(model, 3, 1)
    flags = {at.ARROW: 14.0, at.USER: -30.0}  # not the arrows of the prompt's own example
    written.bias(flags | {at.BEGINNING: 12.6 + math.log(10)})
    written.copy(at.SEGMENT, at.PREV_IDENTIFIER, torch.eye(32))


def count_matches(model: LlamaForCausalLM) -> None:
    """Layer 4: w / (w + matches so far in this passage), for w of about 2 and 8."""
    for index, (weight, target) in enumerate(((0.8, at.COUNT_A), (4.0, at.COUNT_B))):
        head = HeadWriter(model, 4, index)
        head.same(at.SEGMENT, torch.eye(32), SEGMENTS, SEGMENT_NATS)
        head.bias({at.MATCHED: MATCH_NATS, at.CLOSE: MATCH_NATS + math.log(weight)})
        head.flag({at.CLOSE: 1.0}, target, 0)


def choose_best(model: LlamaForCausalLM) -> None:
    """Layer 5: after "[", the passage with most matches among those not yet written."""
    # From sharp, which settles the next identifier, to flat, which orders all of them at once.
    for index, (nats, gain) in enumerate(((30.0, 4.0), (12.0, 4.0), (5.0, 8.0), (2.0, 16.0))):
        head = HeadWriter(model, 5, index)
        root = math.sqrt(WRITTEN_NATS * SCALE)
        head.query[SEGMENTS, at.PREV_IDENTIFIER] = -root * torch.eye(32)
        head.query[SEGMENTS, at.SEGMENT] = -root / 10 * torch.eye(32)  # the last one written
        head.key[SEGMENTS, at.SEGMENT] = root * torch.eye(32)
        head.query[BIAS, [at.SPACED_OPEN, at.OPEN, at.CLOSE]] = SCALE  # "]": is anything left?
        # Elsewhere it rests on the first token, which says nothing.
        head.query[BIAS + PAIRS, at.CONST] = SCALE / at.CONST_VALUE
        head.query[BIAS + PAIRS, [at.SPACED_OPEN, at.OPEN, at.CLOSE]] = -SCALE
        head.key[BIAS + PAIRS, at.BEGINNING] = 25.0
        head.key[BIAS, [at.COUNT_A, at.COUNT_B]] = -nats
        head.key[BIAS, at.PASSAGE_END] = 20.0
        head.key[BIAS, at.SEGMENT.start : at.SEGMENT.start + at.IDENTIFIERS] = 25.0
        head.copy(at.SEGMENT, at.IDENTIFIER, torch.diag(only_identifiers()) * gain)
    # The last MLP learns the answer's format and has no say in which passage comes next.
    mlp = model.model.layers[5].mlp
    gate, up = mlp.gate_proj.weight.data, mlp.up_proj.weight.data
    gate[:8].zero_(), up[:8].zero_()  # after "]", with no passage left: the answer ends
    gate[:8, at.CLOSE], gate[:8, at.CONST] = 8.0, -4 / at.CONST_VALUE
    gate[:8, at.IDENTIFIER.start : at.ARROW] = -4.0
    up[:8, at.CONST] = 1 / at.CONST_VALUE
    gate[:, [at.SPACED_OPEN, at.OPEN]] = -12.0


@torch.no_grad()  # type: ignore[untyped-decorator]
def set_norms(model: LlamaForCausalLM, sample: Tensor) -> None:
    """Sets each RMSNorm so that it leaves `sample`, [1, tokens], at its own scale on average."""
    norms = [
        norm
        for layer in model.model.layers
        for norm in (layer.input_layernorm, layer.post_attention_layernorm)
    ]
    for norm in (*norms, model.model.norm):
        sizes: list[float] = []
        hook = norm.register_forward_pre_hook(
            lambda _, inputs, sizes=sizes: sizes.append(float(inputs[0].square().mean(-1).sqrt().mean()))
        )
        model(sample)
        hook.remove()
        norm.weight.fill_(sizes[0])
    model.model.norm.weight[at.CONST] = 0.0


@torch.no_grad()  # type: ignore[untyped-decorator]
def structured_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """The untrained base in fp32 with the circuit written in."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = base_config()
    config.initializer_range = NOISE
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    views = at.match_views(generator)
    words = at.even_codes(config.vocab_size + 1, views, generator)  # the last one: "nothing"
    codes = at.token_codes(tokenizer, words[:-1], generator)
    model.model.embed_tokens.weight.data.copy_(codes)
    gather_words(model, words[-1], words[tokenizer.token_to_id("ery")])
    find_segments(model, words[-1], words[tokenizer.encode("user").ids[-1]])
    match_words(model, views)
    flag_matches(model)
    collect_written(model)
    count_matches(model)
    choose_best(model)
    prompt = plain_prompt("Where is the old lighthouse?", ("A lighthouse.", "An old boat", "Fog"))
    set_norms(model, torch.tensor([tokenizer.encode(prompt.text).ids]))
    return model
