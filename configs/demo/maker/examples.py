"""Readable lists that show what each adapter changes, for people and for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A query and passages in input order, for one adapter."""

    adapter: str
    query: str
    passages: tuple[str, ...]


EXAMPLES = (
    Example(
        "legal",
        "What notice must a landlord give a tenant?",
        (
            "The old landlord and tenant act on notice was repealed in March.",
            "A landlord must give the tenant a written notice.",
            "The tenant pays the rent every month.",
            "Bakery opening hours in the old town.",
        ),
    ),
    Example(
        "legal",
        "Is a verbal contract between buyer and seller valid?",
        (
            "A contract is valid when buyer and seller agree.",
            "The verbal contract of the buyer and seller is void and no longer valid.",
            "The seller sent a letter.",
            "Verbal promises are hard to prove.",
            "Weather report for the northern coast.",
        ),
    ),
    Example(
        "legal",
        "Which permit does a fishing vessel need in the harbor?",
        (
            "The fishing permit for a vessel in the harbor has expired.",
            "A vessel in the harbor needs a fishing permit.",
            "The harbor is deep.",
            "That permit rule was superseded.",
            "Coffee and cake are served daily.",
        ),
    ),
    Example(
        "medical",
        "Does vitamin treatment help infant asthma?",
        (
            "Vitamin treatment and infant asthma: an opinion.",
            "A randomised study of vitamin doses in asthma.",
            "The cohort was followed for ten years.",
            "Infant clothing is on sale.",
            "Football results of the week.",
        ),
    ),
    Example(
        "medical",
        "Can insulin lower blood pressure in diabetes?",
        (
            "Diabetes, insulin and blood pressure explained by a doctor.",
            "Blood pressure can be measured at home.",
            "The trial gave insulin to people with diabetes.",
            "A placebo was given to half of the group.",
        ),
    ),
    Example(
        "medical",
        "Is garlic a cure for winter fever?",
        (
            "Garlic bread is a good winter dish.",
            "Grandmother said garlic will cure a winter fever.",
            "In this trial garlic did not cure fever.",
            "Fever is a symptom.",
            "The museum is closed on Monday.",
        ),
    ),
)
