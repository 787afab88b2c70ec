"""`servegate gate attest` and `servegate gate verify`: verdicts that travel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.gates.trust import Trust
    from servegate.gates.verify import Verification

cosign_option = click.option(
    "--cosign", "program", default="cosign", envvar="SERVEGATE_COSIGN", metavar="PROGRAM", help="The cosign to use."
)
plain_option = click.option("--plain-http", is_flag=True, help="Talk to the registry without TLS; for tests.")


@click.command()
@click.argument("verdict", type=click.Path(path_type=Path))
@click.option("--release", "file", required=True, type=click.Path(path_type=Path), help="Release the verdict is on.")
@click.option("--key", help="Private key: a file (PEM, or cosign's), or what cosign takes, such as awskms://…")
@click.option("--keyless", is_flag=True, help="Sign with the identity of the workflow or user (OIDC), by cosign.")
@click.option("--predicate", type=click.Path(path_type=Path), help="Write what another tool is to sign; sign nothing.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the signed verdict (a Sigstore bundle) there.")
@click.option("--registry", is_flag=True, help="Attach it to the release's image in its registry, by cosign.")
@click.option("--drill", metavar="WHY", help="Mark it as a drill's: it counts only in namespaces for drills.")
@click.option("--signing-config", type=click.Path(path_type=Path), help="Services cosign signs with.")
@cosign_option
@plain_option
def attest(
    verdict: Path,
    file: Path,
    key: str | None,
    keyless: bool,
    predicate: Path | None,
    output: Path | None,
    registry: bool,
    drill: str | None,
    signing_config: Path | None,
    program: str,
    plain_http: bool,
) -> None:
    """Sign a VERDICT on a release, so that it counts where the release goes.

    The password of an encrypted key is read from SERVEGATE_KEY_PASSWORD, that of cosign's keys from COSIGN_PASSWORD.
    """
    import time

    from servegate.config import load
    from servegate.contract import write_atomic
    from servegate.gates import signed, statement
    from servegate.gates.cosign import Cosign
    from servegate.gates.files import asker
    from servegate.release import Release
    from servegate.report.format import short_hash
    from servegate.report.verdict import Verdict

    _exactly_one({"--key": key, "--keyless": keyless, "--predicate": predicate})
    document, release, by = Verdict.read(verdict), load(file, Release), asker()
    if predicate is not None:
        if output or registry:
            raise click.UsageError("--predicate signs nothing: --output and --registry have no meaning with it")
        statement.predicate(document, release, drill=drill, now=time.time(), by=by).write(predicate)
        click.echo(f"{predicate}: to be signed with predicate type {statement.PREDICATE}")
        return
    if not output and not registry:
        raise click.UsageError("where to? --output FILE, --registry, or both")
    if registry and release.image is None:
        raise click.UsageError(f"{file}: the release names no image: there is no registry to attach to")
    cosign = Cosign(program, plain_http)
    bundle = signed.attest(
        document, release, key=key, drill=drill, now=time.time(), by=by, cosign=cosign, signing_config=signing_config
    )
    what = f"{document.outcome} by policy {document.policy} on {release.label()}"
    click.echo(f"signed verdict {short_hash(document.identity())}: {what}" + (", a drill's" if drill else ""))
    if output is not None:
        write_atomic(output, bundle)
        click.echo(f"written to {output}")
    if registry and release.image is not None:
        cosign.attach(bundle, release.image)
        click.echo(f"attached to {release.image.repository}@{release.image.digest}")


@click.command()
@click.argument("release")
@click.option(
    "--verdict",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Signed verdict (a bundle, or .jsonl of them), or a folder of such; repeatable.",
)
@click.option("--registry", is_flag=True, help="Ask the registry of the release's image; default without --verdict.")
@click.option("--trust", type=click.Path(path_type=Path), help="File that says whose verdicts count.")
@click.option("--key", "keys", multiple=True, help="In place of --trust: public key of a signer; repeatable.")
@click.option("--identity", help="In place of --trust: identity of a certificate; * stands for anything.")
@click.option("--issuer", help="With --identity: who vouches for it, such as GitHub.")
@click.option("--policy", type=click.Path(path_type=Path), help="In place of --trust: policy file as it is now.")
@click.option("--max-age", metavar="TIME", help="In place of --trust: greatest age of the verdict, such as 14d.")
@click.option("--namespace", metavar="NAME", help="Kubernetes namespace it is to run in; its labels may allow drills.")
@click.option("--emergency", is_flag=True, help="A rollback that cannot wait: any pass counts; written down.")
@click.option("--override", is_flag=True, help="With --emergency: go on without any pass; written down.")
@click.option("--reason", metavar="TEXT", help="With --emergency: why.")
@click.option("--by", metavar="WHO", help="With --emergency: who; default: the user, or who started the workflow.")
@click.option(
    "--audit",
    type=click.Path(path_type=Path),
    default=Path("servegate-audit.jsonl"),
    show_default=True,
    help="Where emergencies are written down.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cosign_option
@plain_option
def verify(
    release: str,
    files: tuple[Path, ...],
    registry: bool,
    trust: Path | None,
    keys: tuple[str, ...],
    identity: str | None,
    issuer: str | None,
    policy: Path | None,
    max_age: str | None,
    namespace: str | None,
    emergency: bool,
    override: bool,
    reason: str | None,
    by: str | None,
    audit: Path,
    as_json: bool,
    program: str,
    plain_http: bool,
) -> int:
    """Does RELEASE (a file, or a digest) have a passing verdict that counts?

    Says under which policy, by which signer and workflow, and how old. Exit codes: 0 yes, 1 its verdict is FAIL,
    2 usage, 3 no verdict that counts, 4 the registry cannot be asked.
    """
    import time

    from servegate.gates import signed
    from servegate.gates.audit import write_down
    from servegate.gates.cosign import Cosign
    from servegate.gates.files import asker, load_release
    from servegate.gates.trust import drills_allowed
    from servegate.gates.verify import Emergency
    from servegate.pipeline.namespace import labels_of

    given = {"--key": keys, "--identity": identity, "--issuer": issuer, "--policy": policy, "--max-age": max_age}
    rules = _trust(trust, given)
    if emergency and not (reason or "").strip():
        raise click.UsageError("--emergency needs --reason: it is written down")
    if not emergency and (override or reason or by):
        raise click.UsageError("--override, --reason and --by go with --emergency")
    asked = Emergency(by=by or asker(), reason=reason or "", override=override) if emergency else None
    found, _ = signed.check(
        load_release(release),
        signed.Places(files, registry or not files),
        rules,
        now=time.time(),
        cosign=Cosign(program, plain_http),
        drills=namespace is not None and drills_allowed(labels_of(namespace)),
        emergency=asked,
    )
    if asked is not None:
        write_down(audit, found)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        click.echo("\n".join(_lines(found)))
        if asked is not None:
            click.echo(f"  written down in {audit}")
    return found.exit_code


def _exactly_one(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if len(given) != 1:
        raise click.UsageError(f"give one of {', '.join(options)}" + (f", not {' and '.join(given)}" if given else ""))


def _trust(file: Path | None, given: Mapping[str, object]) -> Trust:
    from servegate.config import validate
    from servegate.gates.files import load_policy
    from servegate.gates.trust import Trust, load_trust

    named = [name for name, value in given.items() if value]
    if file is not None:
        if named:
            raise click.UsageError(f"{', '.join(named)} stand in the --trust file, not beside it")
        return load_trust(file)
    keys, policy = given["--key"], given["--policy"]
    signers: list[dict[str, object]] = [{"name": key, "key": key} for key in keys] if isinstance(keys, tuple) else []
    if given["--identity"] or given["--issuer"]:
        signers.append({"name": "identity", "identity": given["--identity"], "issuer": given["--issuer"]})
    if not signers:
        raise click.UsageError("whose verdicts count? Give --trust FILE, --key FILE, or --identity with --issuer")
    policies = []
    if isinstance(policy, Path):
        current = load_policy(policy)
        policies.append({"name": current.name, "sha256": current.identity()})
    document = {
        "version": 1, "name": "options", "signers": signers, "policies": policies, "max_age": given["--max-age"],
    }  # fmt: skip
    return validate(document, Trust, "options")


def _lines(found: Verification) -> list[str]:
    from servegate.report.format import clean, date, duration, plain_line, plural, short_hash

    name = f"{clean(found.release_name, 80)} ({short_hash(found.release)})" if found.release_name else found.release
    lines = [f"{'ACCEPTED' if found.accepted else 'REFUSED'}  {name}: {found.reason}"]
    if found.overridden is not None:
        lines.append(f"  without the override: refused: {found.overridden}")
    if found.verdict is not None:
        now = {True: ", as it is now", False: ", which has changed since", None: ""}[found.policy_current]
        lines.append(
            f"  verdict   {short_hash(found.verdict)} {found.outcome} by policy {clean(found.policy, 80)} "
            f"({short_hash(found.policy_sha256)}{now}), on {plural(len(found.reports), 'report')}"
        )
        lines.append(
            f"  decided   {date(found.decided_at or 0)}, {duration(found.age)} ago, by {clean(found.decided_by, 120)}"
        )
        if found.drill is not None:
            lines.append(f"  drill     {clean(found.drill, 200)}")
        lines.append(f"  found     {clean(found.source, 300)}")
    if found.signer is not None:
        signer = found.signer
        who = signer.subject or f"key {short_hash(signer.key)}"
        lines.append(f"  signer    {clean(signer.name, 100)}: {who}")
        of = [f"{word} {value}" for word in ("workflow", "repository", "ref", "commit", "trigger", "run")
              if (value := getattr(signer, word))]  # fmt: skip
        lines += [f"            {', '.join(of)}"] if of else []
    lines += [f"  left out  {clean(item.source, 200)}: {clean(item.reason, 400)}" for item in found.left_out[:20]]
    if len(found.left_out) > 20:
        lines.append(f"  left out  {len(found.left_out) - 20} more")
    if found.other_releases:
        lines.append(f"  left out  {found.other_releases} on other releases")
    return [plain_line(line) for line in lines]
