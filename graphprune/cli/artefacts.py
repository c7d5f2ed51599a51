"""`graphprune verify`: compare what compile wrote with the graph again."""

import typer

from graphprune.cli.arguments import Folder, Json
from graphprune.cli.console.show import print_checks, print_json
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.looks import check_reference
from graphprune.errors import ParityError


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("verify")(verify_command)


def verify_command(out: Folder, as_json: Json = False) -> None:
    """Check that the artefacts in OUT still compute the same: logits, cached steps, padding, greedy tokens."""
    check_reference(out)
    from graphprune.artefacts.parity import check

    with progress_on_stderr() as progress:
        progress(f"checking {out}", 0, 0)
        checks = check(out, progress)
    if as_json:
        rows = [{**vars(each), "state": each.state} for each in checks]
        print_json({"out": out, "passed": all(each.passed for each in checks), "checks": rows})
    else:
        print_checks(checks)
    failed = [f"{each.artefact} {each.name}" for each in checks if not each.passed]
    if failed:
        raise ParityError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}; compile it again")
