"""The answers to four questions, composed from the numbers."""

import math
from collections.abc import Iterable

from keras_norms.analysis import LABELS, average
from keras_norms.intervals import FEWEST, Estimate
from keras_norms.prose import listed
from keras_norms.selection.judging import (
    BEST,
    FAILED,
    FEW,
    NOT_LEARNT,
    OPEN,
    WORSE,
    Facts,
    Place,
    Ranking,
    better,
    change_with_batch,
    has_failed,
    more_steps,
    rank,
    reference_has_learnt,
    runs_of,
)

TASK = "Which one for this task?"
BATCH = "What if the batch size changes?"
TRADE = "Which is the best trade of cost and accuracy?"
REPLICAS = "How do they behave on several replicas?"
# A smaller change of outputs is rounding, which training makes larger.
ROUNDING = 1e-3


def batches(facts: Facts, size: int) -> str:
    """Batches of a size, and of which kind they are."""
    ghost = facts["ghost"] and size != facts["batch_sizes"][0]
    return f"{'ghost batches' if ghost else 'batches'} of {size}"


def form(facts: Facts, value: float) -> str:
    """A value of the metric."""
    return _percent(value) if _is_share(facts) else f"{value:.4g}"


def interval(facts: Facts, found: Estimate) -> str:
    """The ends of an interval."""
    if found.interval is None:
        return "–"
    low, high = found.interval
    if _is_share(facts):
        return f"{100 * low:.1f} to {100 * high:.1f} %"
    return f"{low:.4g} to {high:.4g}"


def gap(facts: Facts, value: float) -> str:
    """A difference of the metric."""
    return f"{100 * value:.1f} points" if _is_share(facts) else f"{value:.3g}"


def answers(facts: Facts) -> dict[str, str]:
    """`{question: answer}`."""
    ranking = rank(facts, facts["batch_sizes"][0])
    return {
        TASK: task(facts, ranking),
        BATCH: batch(facts),
        TRADE: trade(facts, ranking),
        REPLICAS: replicas(facts),
    }


def task(facts: Facts, ranking: Ranking) -> str:
    """Which norm is best at the first batch size."""
    if not ranking.places or ranking.places[0].estimate is None:
        return "No run is complete. Give more minutes, or fewer norms."
    if not reference_has_learnt(facts):
        return nothing(facts)
    first, metric = ranking.places[0], facts["monitor"]
    said = [
        f"With batches of {ranking.size}, {first.norm} has the best mean {metric}: "
        f"{form(facts, _mean(first))}{_within(facts, first)}."
    ]
    same = [place for place in ranking.top if place is not first]
    worse = [place for place in ranking.places if place.verdict == WORSE]
    if first.verdict == OPEN and len(ranking.places) > 1:
        said.append(f"The {len(first.values)} seeds do not tell the norms apart.")
    elif first.verdict == FEW:
        said.append(f"Fewer than {FEWEST} seeds say nothing of chance, so this is no verdict.")
    elif same:
        said.append(f"{listed(p.norm for p in same)} cannot be told apart from it.")
    if worse:
        behind = listed(f"{p.norm} by {gap(facts, p.behind.mean)}" for p in worse if p.behind)
        said.append(f"Worse, by more than chance: {behind}.")
    said += _troubles(facts, ranking)
    return " ".join(said)


def nothing(facts: Facts) -> str:
    """Why nothing can be concluded, and what to do."""
    reference, base = facts["norms"][0], facts["baseline"]
    reached = rank(facts, facts["batch_sizes"][0]).place(reference)
    value = "failed" if reached.estimate is None else f"has {form(facts, _mean(reached))}"
    beside = f", and {base['what']} has {form(facts, base['value'])}" if base else ""
    return (
        f"Nothing can be concluded: with {reference} the model has not learnt. "
        f"Its {facts['monitor']} {value}{beside}. "
        f"Give about {more_steps(facts):,} steps, or mend the learning rate first."
    )


def batch(facts: Facts) -> str:
    """What the batch size does to each norm."""
    sizes = facts["batch_sizes"]
    if len(sizes) == 1:
        return (
            f"All runs had batches of {sizes[0]}, so this was not measured. "
            f"`batch_sizes=({sizes[0]}, {max(1, sizes[0] // 8)})` measures it."
        )
    if not reference_has_learnt(facts):
        return "Nothing can be concluded, since the model has not learnt."
    large, small = max(sizes), min(sizes)
    kind = "ghost batches of" if facts["ghost"] else "batches of"
    lost, gained, same, unknown = [], [], [], []
    for norm in facts["norms"]:
        change = change_with_batch(facts, norm)
        if change is None:
            continue
        if change.interval is None or not _enough(facts, norm, large, small):
            unknown.append(norm)
        elif change.interval[0] > 0:
            lost.append(f"{norm} loses {gap(facts, change.mean)}")
        elif change.interval[1] < 0:
            gained.append(f"{norm} gains {gap(facts, -change.mean)}")
        else:
            same.append(norm)
    said = []
    if lost or gained:
        said.append(f"From {kind} {large} to {small}, {listed([*lost, *gained])}.")
    if same:
        said.append(f"No clear change for {listed(same)}.")
    if unknown:
        said.append(f"Too few seeds for {listed(unknown)}.")
    ranking = rank(facts, small)
    if ranking.top:
        names = listed(place.norm for place in ranking.top)
        if ranking.places[0].verdict == BEST:
            said.append(f"At {small}, {names} is the best.")
        elif ranking.places[0].verdict == OPEN:
            said.append(f"At {small}, the seeds do not tell the norms apart.")
        else:
            said.append(f"At {small}, {names} are among the best.")
    if not facts["ghost"]:
        said.append("Small batches took more steps, at a rate that is lower in proportion.")
    return " ".join(said or ["No norm has runs at both sizes."])


def trade(facts: Facts, ranking: Ranking) -> str:
    """The cheapest of the norms that nothing is known to be better than."""
    costs, reference = facts["costs"], facts["norms"][0]
    ratios = [f"{norm} {costs[norm]['step']['ratio']:.2f}" for norm in facts["norms"][1:]]
    said = [f"A training step takes {costs[reference]['step']['ms']:.3g} ms with {reference}."]
    if ratios:
        said.append(f"The others take this share of it: {listed(ratios)}.")
    if reference_has_learnt(facts) and ranking.top:
        fastest = min(costs, key=lambda norm: costs[norm]["step"]["ms"])
        chosen = _fastest(facts, ranking.top)
        if len(ranking.top) > 1:
            said.append(f"Of those that nothing is known to beat, {chosen} is the fastest.")
        elif chosen == fastest:
            said.append(f"{chosen} is both the best and the fastest.")
        else:
            said.append(f"{chosen} is the best, and {fastest} the fastest.")
    folded = [
        f"{norm} {each['folded']['ms'] / each['inference']['ms']:.2f}"
        for norm, each in costs.items()
        if each["folded"]
    ]
    if folded:
        said.append(f"Folded, inference takes this share of its time: {listed(folded)}.")
    return " ".join(said)


def replicas(facts: Facts) -> str:
    """How far two replicas are from one device."""
    found = facts["replicas"]
    if not found:
        return "This was not measured: `replicas=2` measures it."
    exact = [norm for norm, value in found.items() if value is not None and value < ROUNDING]
    other = [
        f"{norm} by {_percent(value)}"
        for norm, value in found.items()
        if value is not None and value >= ROUNDING
    ]
    said = []
    if exact:
        said.append(f"To rounding, replicas compute what one device does with {listed(exact)}.")
    if other:
        said.append(
            f"After three steps outputs differ from those of one device: {listed(other)}. "
            "There each replica has statistics of its own; `bn(synchronized=True)` shares them."
        )
    failed = [norm for norm, value in found.items() if value is None]
    if failed:
        said.append(f"It could not be measured for {listed(failed)}.")
    return " ".join(said)


def switches(facts: Facts) -> str:
    """What the switches say, in a sentence or two."""
    shares = facts["switches"]
    if not shares:
        return ""
    net = average(shares.values())["both"]
    first, *others = sorted(net.items(), key=lambda each: -each[1])
    rest = listed(f"{LABELS[s]} {share:.2f}" for s, share in others)
    equal = 1 / len(net)
    text = (
        f"Switchable Norm gives {LABELS[first[0]]} the largest share over all layers: "
        f"{first[1]:.2f}, before {rest}."
    )
    if first[1] - equal < 0.05:
        text += f" That is hardly more than {equal:.2f}, where all switches start."
    return text


def advice(facts: Facts) -> tuple[str, str]:
    """What to do next: a sentence, and the code of it."""
    ranking = rank(facts, facts["batch_sizes"][0])
    if not ranking.places:
        return "Compare again, with more minutes.", ""
    if not reference_has_learnt(facts):
        return f"Compare again, with about {more_steps(facts):,} steps.", ""
    if not ranking.top:
        return f"Compare again, with {FEWEST} seeds or more.", ""
    chosen, seeds = ranking.top[0].norm, len(ranking.places[0].values)
    ahead = _ahead_if_recalibrated(facts, ranking)
    if ahead:
        return (
            "Compare again, with more steps or a lower momentum, as in `bn(momentum=0.9)`. "
            f"Recalibrated, {listed(ahead)} would be ahead of {chosen}."
        ), ""
    if ranking.places[0].verdict == BEST:
        why = f"{chosen} is the best here."
    else:
        fastest = _fastest(facts, ranking.top)
        why = f"Nothing is known to be better than {chosen}."
        if fastest != chosen:
            why += f" {fastest} is faster, and not told apart from it."
        why += f" With {2 * seeds} seeds the comparison could tell more norms apart."
    if facts["function"]:
        return why, f'model = build("{chosen}")  # your function'
    code = f'model, report = keras_norms.convert(model, to="{chosen}", transfer=False)\n'
    code += "optimizer = type(model.optimizer).from_config(model.optimizer.get_config())\n"
    code += "optimizer = keras_norms.configure_optimizer(optimizer, model)  # norms do not decay"
    return why, code


def _fastest(facts: Facts, places: Iterable[Place]) -> str:
    return min(places, key=lambda place: facts["costs"][place.norm]["step"]["ms"]).norm


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _is_share(facts: Facts) -> bool:
    return facts["monitor"].lower().endswith(("acc", "accuracy"))


def _mean(place: Place) -> float:
    return place.estimate.mean if place.estimate else math.nan


def _within(facts: Facts, place: Place) -> str:
    if place.estimate is None or place.estimate.interval is None:
        return ""
    return f" (90 % interval {interval(facts, place.estimate)})"


def _troubles(facts: Facts, ranking: Ranking) -> Iterable[str]:
    not_learnt = [p.norm for p in ranking.places if p.verdict == NOT_LEARNT]
    if not_learnt:
        base = facts["baseline"]
        yield (
            f"{listed(not_learnt)} did no better than {base['what']}, "
            f"which has {form(facts, base['value'])}."
        )
    for place in ranking.places:
        if place.verdict == FAILED:
            runs = runs_of(facts, place.norm, ranking.size)
            failed = sum(has_failed(facts, run) for run in runs)
            yield f"{failed} of {len(runs)} runs with {place.norm} failed."
    lagging = [
        f"{p.norm} to {form(facts, p.recalibrated)}"
        for p in ranking.places
        if p.estimate and p.recalibrated is not None and _lags(facts, p)
    ]
    if lagging:
        yield (
            "Moving statistics lag behind the weights: `keras_norms.recalibrate` takes "
            f"{listed(lagging)}. Train longer, or with a lower momentum, before you judge."
        )


def _lags(facts: Facts, place: Place) -> bool:
    """Whether a norm is much better with statistics that are computed again."""
    if place.estimate is None or place.recalibrated is None:
        return False
    gain = (place.recalibrated - place.estimate.mean) * (1 if facts["higher"] else -1)
    return gain > max(2 * (place.estimate.spread or 0.0), 0.05 * abs(place.estimate.mean))


def _ahead_if_recalibrated(facts: Facts, ranking: Ranking) -> list[str]:
    """The norms that only lagging moving statistics keep behind the first one."""
    best = _mean(ranking.places[0])
    return [
        place.norm
        for place in ranking.places[1:]
        if _lags(facts, place) and better(facts, place.recalibrated or math.nan, best)
    ]


def _enough(facts: Facts, norm: str, large: int, small: int) -> bool:
    places = [rank(facts, size).place(norm) for size in (large, small)]
    return len(set(places[0].values) & set(places[1].values)) >= FEWEST
