"""Runs `python -m engines.embedded.train`; the package's docstring lists the commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.embedded import train
from engines.embedded.packages import cache_directory
from engines.embedded.train import bank, fit, moments, reference, voices

_FOLDER = cache_directory() / "train"


def _fit_moments(folder: Path, sounds: int, seed: int, only: str | None) -> None:
    worker, workers = map(int, (only or "0/1").split("/"))
    moments.fill(folder, sounds, seed, worker, workers)
    if only is None:
        known, wanted = moments.read(folder)
        print(f"{moments.DATA}: fitted on {len(known)} sounds, SHA-256 {moments.save(moments.fit(known, wanted))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engines.embedded.train",
        description=train.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--voices", type=Path, help=f"the archive {voices.ARCHIVE}, where npm is not at hand")
    parser.add_argument("--folder", type=Path, default=_FOLDER / "bank", help="of the bank (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    steps = parser.add_subparsers(dest="step", required=True)
    filling = steps.add_parser("bank", help="make the bank's clips")
    filling.add_argument(
        "--clips", type=int, default=704, help="default: %(default)s, as many as the mapper was fitted on"
    )
    filling.add_argument("--worker", type=int, default=0)
    filling.add_argument("--workers", type=int, default=1, help="processes that share the work (default: 1)")
    steps.add_parser("fit", help="fit the mapper on the bank's clips")
    steps.add_parser("reference", help="make the demo's reference clip")
    sounding = steps.add_parser("moments", help="make what is missing of the moments' sounds, and fit the predictor")
    sounding.add_argument(
        "--sounds", type=int, default=1500, help="default: %(default)s, as many as the predictor was fitted on"
    )
    sounding.add_argument("--only", metavar="N/M", help="only make sounds: those of process N of M, from 0")
    arguments = parser.parse_args()
    if arguments.step == "moments":
        _fit_moments(_FOLDER / "moments", arguments.sounds, arguments.seed, arguments.only)
        return
    packs = voices.packs(arguments.voices)
    if arguments.step == "bank":
        bank.fill(arguments.folder, packs, arguments.clips, arguments.seed, arguments.worker, arguments.workers)
    elif arguments.step == "fit":
        heard = fit.listen(arguments.folder, arguments.seed)
        print(f"{fit.DATA}: fitted on {len(heard.inputs)} clips, SHA-256 {fit.save(fit.fit(heard, packs))}")
    elif arguments.step == "reference":
        print(f"{reference.PATH}: {reference.make(packs):.1f} s")


if __name__ == "__main__":
    main()
