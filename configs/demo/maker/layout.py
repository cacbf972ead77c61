"""Where things live in the residual stream at the start of training, and what each token carries.

Every ordinary token gets a fixed random code, so that no word is special and a word never seen in
training matches as well as one seen a thousand times; identifiers get orthogonal codes.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer

from configs.demo.maker.relevance import FUNCTION_WORDS
from configs.demo.maker.tokenizer import SPACE, SPECIAL_TOKENS

HIDDEN = 256
CONST, START, STOP, CLOSE, PREV_START, PREV_STOP = range(6)
MATCH = slice(6, 10)  # one flag per matching head
COLON, MATCHED, COUNT_A, COUNT_B, PASSAGE_END, BEGINNING = range(10, 16)
WORD = slice(16, 64)  # code of the token itself; after layer 0 the code three tokens back
LAST = slice(64, 112)  # code one token back: last piece of the word that may just have ended
BEFORE_LAST = slice(112, 160)  # code two tokens back, or "nothing" where the word has one piece
IDENTIFIER = slice(160, 192)  # code of an identifier; 29, 30, 31 of it mark " >", " [" and "["
PREV_IDENTIFIER = slice(192, 224)  # identifier code one token back; later the identifiers written
SEGMENT = slice(224, 256)  # code of the passage (or query) this token belongs to
ARROW, SPACED_OPEN, OPEN = (IDENTIFIER.start + place for place in (29, 30, 31))
QUERY_SEGMENT = SEGMENT.start + 30
HEADER = SEGMENT.start + 29  # before layer 1 only: the end of a chat turn's header
USER = COLON  # after layer 1: in a user's turn
CODE = 48
CONST_VALUE = 12.0  # most of a token's norm, so that RMSNorm scales all tokens alike
IDENTIFIERS = 29  # codes that are exactly orthogonal
MATCHING_HEADS = 4
VIEW_ROWS = (18, 8, 8)


def unit_rows(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Random unit vectors, [rows, columns]."""
    values = torch.randn(rows, columns, generator=generator)
    return values / values.norm(dim=1, keepdim=True)


def match_views(generator: torch.Generator) -> list[list[torch.Tensor]]:
    """For each matching head, its [rows, 48] views of a word's last, second and third last piece."""
    views = []
    for _ in range(MATCHING_HEADS):
        bases = [torch.randn(CODE, rows, generator=generator) for rows in VIEW_ROWS]
        scales = [(CODE / rows) ** 0.5 for rows in VIEW_ROWS]
        pairs = zip(bases, scales, strict=True)
        views.append([torch.linalg.qr(basis)[0].T * scale for basis, scale in pairs])
    return views


def even_codes(rows: int, views: list[list[torch.Tensor]], generator: torch.Generator) -> torch.Tensor:
    """Random codes [rows, 48] that every view of every head sees with the same norm, 1."""
    with torch.enable_grad():
        codes = unit_rows(rows, CODE, generator).requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=0.01)
        for _ in range(300):
            norms = [(codes @ view.T).square().sum(1) for head in views for view in head]
            loss = sum(((norm - 1) ** 2).sum() for norm in norms)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return codes.detach()


def is_word_start(token: str) -> bool:
    """Whether a token begins a word or ends one, so that a word is known to be over before it."""
    return not (token.isalnum() and token.isascii())


def token_codes(tokenizer: Tokenizer, words: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Embeddings [vocabulary, hidden] at the start from word codes [vocabulary, 48].

    A token and its capitalised form get the same one.
    """
    vocabulary = tokenizer.get_vocab()
    table = torch.zeros(len(vocabulary), HIDDEN)
    table[:, CONST] = CONST_VALUE
    table[:, WORD] = words
    stops = {SPACE + word for word in FUNCTION_WORDS}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        lowered = token.replace(SPACE, " ").lower().replace(" ", SPACE)  # "Ġ" has a lower case too
        if token not in SPECIAL_TOKENS and lowered != token and lowered in vocabulary:
            table[index] = table[vocabulary[lowered]]
        spaced = token.startswith(SPACE) and token[1:].isalnum()
        table[index, START] = float(is_word_start(token))
        punctuation = not token.strip(SPACE).isalnum() and token != SPACE
        table[index, STOP] = float(lowered in stops or (punctuation and not spaced))
    mark_identifiers(table, vocabulary, generator)
    mark_separators(table, vocabulary)
    return table


def mark_identifiers(table: torch.Tensor, vocabulary: dict[str, int], generator: torch.Generator) -> None:
    """Gives the numbers their identifier codes: orthogonal up to 28, then random ones."""
    rest = unit_rows(101, IDENTIFIERS, generator)
    for number in range(101):
        code = torch.eye(IDENTIFIERS)[number] if number < IDENTIFIERS else rest[number]
        table[vocabulary[str(number)], IDENTIFIER.start : ARROW] = code


def mark_separators(table: torch.Tensor, vocabulary: dict[str, int]) -> None:
    """Flags the tokens that open, close and separate passages and identifiers."""
    for token in ("]", "S", "<|start_header_id|>"):  # "S" begins "Search Query" after the passages
        table[vocabulary[token], CLOSE] = 1.0
    for token in ("Ċ", "ĊĊ", "<|eot_id|>"):
        table[vocabulary[token], PASSAGE_END] = 1.0
    table[vocabulary["Ġ>"], ARROW] = 1.0
    table[vocabulary[":"], COLON] = 1.0
    table[vocabulary["<|end_header_id|>"], HEADER] = 1.0
    table[vocabulary["Ġ["], SPACED_OPEN] = 1.0
    table[vocabulary["["], OPEN] = 1.0
    begin = vocabulary["<|begin_of_text|>"]
    table[begin, WORD] = 0.0
    table[begin, [START, STOP]] = 0.0
    table[begin, BEGINNING] = 1.0


def frequencies(theta: float, pairs: int) -> torch.Tensor:
    """Rotary angle per token of each pair, radians, fastest first."""
    return theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def distance_kernel(theta: float, pairs: int, slope: float, reach: int) -> torch.Tensor:
    """Query components [2 * pairs] whose score against a unit key falls by `slope` nats a token.

    The key is 1 in the first component of each pair. Least squares over distances to 4,000 tokens; the
    fall flattens after `reach` tokens. Softmax scale (1 / sqrt(2 * pairs)) is already divided out.
    """
    distances = torch.arange(0, 4000, dtype=torch.float64)
    angles = distances[:, None] * frequencies(theta, pairs)[None, :]
    basis = torch.cat([angles.cos(), angles.sin()], dim=1)
    target = -slope * reach * (1 - torch.exp(-distances / reach))
    weights = (1 + 60 * torch.exp(-distances / 30))[:, None]
    penalty = 0.02 * torch.eye(2 * pairs, dtype=torch.float64)
    left = (basis * weights).T @ (basis * weights) / 100 + penalty
    right = (basis * weights).T @ (target[:, None] * weights) / 100
    solution = torch.linalg.solve(left, right)[:, 0] * math.sqrt(2 * pairs)
    # score = Re(q e^{i w distance}): cos takes the first component, sin takes minus the second
    return torch.cat([solution[:pairs], -solution[pairs:]]).float()
