"""Commands that look after the store: ls, verify, gc, purge."""

from __future__ import annotations

from pathlib import Path

from unlearn.commands import console
from unlearn.commands.pages import open_store
from unlearn.errors import StoreError
from unlearn.store import Entry


def ls(where: Path | None, json: bool) -> None:
    """Lists every result with its size and what it is."""
    store = open_store(where)
    found = [(e, _what(e)) for e in store.entries()]
    if json:
        console.say_json(
            [{"kind": e.kind, "address": e.address, "bytes": e.size, "what": what} for e, what in found]
        )
        return
    console.table(
        ["kind", "address", "size", "what"],
        [(e.kind, e.address[:12], _size(e.size), what) for e, what in found],
    )
    console.say(f"{len(found)} results, {_size(sum(e.size for e, _ in found))} in {store.root}")


def verify(where: Path | None, json: bool) -> bool:
    """Recomputes every file's hash; whether all are as they were published."""
    store = open_store(where)
    bad = {f"{e.kind}/{e.address}": names for e in store.entries() if (names := store.damage(e))}
    if json:
        console.say_json({"damaged": bad})
    else:
        for name, files in bad.items():
            console.say(f"damaged: {name}: {', '.join(files)}")
        console.say(
            "`unlearn store gc` removes what is damaged" if bad else "every result is as it was published"
        )
    return not bad


def gc(where: Path | None, json: bool) -> None:
    """Removes damaged results and stale drafts."""
    store = open_store(where)
    gone = [e.path for e in store.entries() if store.damage(e)] + store.drafts()
    for path in gone:
        store.remove(path)
    if json:
        console.say_json({"removed": [str(p) for p in gone]})
    else:
        console.say(f"removed {len(gone)} damaged results and drafts from {store.root}")


def purge(request: str, seed: int, where: Path | None, json: bool) -> None:
    """Removes what still holds the data that a request forgets."""
    from unlearn import api
    from unlearn.pool import holders

    store = open_store(where)
    if not store.root.is_dir():
        raise StoreError(
            f"there is no store at {store.root}, so nothing was purged; name the right folder with --store"
        )
    gone = holders(api.as_scenario(request), seed, store)
    for entry in gone:
        store.remove(entry.path)
    pages = list((store.root / "pages").glob("*.html"))
    for page in pages:
        page.unlink()
    if json:
        console.say_json({"removed": [f"{e.kind}/{e.address}" for e in gone]})
        return
    counts = {k: sum(e.kind == k for e in gone) for k in dict.fromkeys(e.kind for e in gone)}
    counts |= {"pages": len(pages)} if pages else {}
    said = ", ".join(f"{n} {k}" for k, n in counts.items()) or "nothing"
    console.say(
        f"removed {said}; kept: reports without pictures of forgotten examples or drawings (`unlearn report` makes their pages again), and models that never saw them"
    )


def _what(entry: Entry) -> str:
    recipe = entry.recipe
    if entry.kind == "report":
        return f"{recipe['method']['name']} on {recipe['scenario']['text']}, seed {recipe['seeds']['method']}"
    if entry.kind == "unlearned":
        return f"{recipe['method']['name']}, seed {recipe['seed']}"
    if entry.kind == "trained":
        return f"{recipe['scenario']}, seed {recipe['seed']}"
    if entry.kind == "measured":
        return f"{recipe['what']} of {recipe['scenario']}"
    return f"of model {str(recipe.get('model', ''))[:12]}"


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
