"""Try finished runs on a page in the browser, or make a Hugging Face Space of one.

    python demo.py --model outputs/minilm
    python demo.py --model outputs/minilm outputs/generator --port 8000
    python demo.py --model outputs/minilm --export_space outputs/space
    python demo.py --model outputs/minilm --push_space user/name

The page shows each label's probability against its threshold, which words carried a label, and what several runs agree
on. It takes files, and corrections, which --train_file reads. Programs call it by HTTP: see
docs/trying-and-serving.md. It listens on this machine alone unless --host or --share says otherwise, and sends nothing
anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.core.errors import UserError
from utils.core.parser import option, script


@dataclass
class DemoArguments:
    """Which runs, and for whom."""

    model: list[str] = option(None, "folder of a finished run, or its name on the Hub; several are shown side by side")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: all of this machine, for everyone who reaches it")
    port: int = option(7860, "port to listen on")
    known_as: list[str] | None = option(
        None, "further names of this server, as of a proxy before it; under others it answers this machine alone"
    )
    share: bool = option(False, "also give the page a public address through Gradio's servers")
    corrections_file: str = option("corrections.csv", "where right labels of wrong answers go")
    max_characters: int = option(10_000, "longest text")
    max_rows: int = option(10_000, "most rows of a file, and most texts of a request")
    max_waiting: int = option(256, "requests that wait; more are turned away")
    export_space: str | None = option(None, "write a folder that is a Hugging Face Space of the run, and end")
    push_space: str | None = option(None, "push it to this name on the Hub, user/name, and end")
    hub_private_repo: bool | None = option(
        None, "make the new Space private, or public; left out: as the account has it for new ones"
    )
    overwrite: bool = option(False, "replace a folder that holds an exported Space")
    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")
    check_weights: bool = option(False, "read the weights whole to check them, not their size and header alone")
    trust_remote_code: bool = option(
        False, "run the code that an adapter's base model brings; read it first. The code of a run never is"
    )

    def __post_init__(self):
        if not self.model:
            raise UserError("--model is missing: name the folder of a finished run")
        for name in ("port", "max_characters", "max_rows", "max_waiting"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.port > 65535:
            raise UserError(f"--port {self.port}: must be 65535 or less")
        self.for_space = bool(self.export_space or self.push_space)
        if self.for_space and len(self.model) > 1:
            raise UserError("a Space holds one run: name one --model")


@script(__doc__, [DemoArguments], quiet=True)
def main(args: DemoArguments) -> None:
    """Check the runs, then serve them or make a Space."""
    from utils.core.noise import end_noise
    from utils.hub.pull import local_folder
    from utils.hub.space import check_push_space
    from utils.runs.folder import load_task
    from utils.serving.checks import SPACE_MARK, check_for_space, check_installed, check_new_folder, check_port

    # Refuse what cannot work
    def check_space() -> None:
        if args.export_space:
            check_new_folder("export_space", args.export_space, SPACE_MARK, args.overwrite)

    check_space()
    if args.push_space:
        check_push_space(args.push_space)
    if not args.for_space:
        check_installed("requirements-demo.txt")
        check_port(args.host, args.port)
    folders = [local_folder(name, args.skip_checks, args.check_weights) for name in args.model]
    tasks = [load_task(folder) for folder in folders]
    if args.for_space:
        check_for_space(folders[0])
        from utils.serving.space import make_space

        private, code = args.hub_private_repo, args.trust_remote_code
        return make_space(folders[0], args.export_space, args.push_space, private, check_space, code)

    from utils.serving.corrections import Corrections

    corrections = Corrections(args.corrections_file, tasks[0])

    # Imported here because they load torch, and what is refused above should not.
    import transformers

    from utils.serving.examples import about, example_texts
    from utils.serving.page import Limits, build_page
    from utils.serving.predictor import Predictor
    from utils.serving.server import own_temporary_folder, serve

    # Serve
    transformers.utils.logging.disable_progress_bar()
    predictor = Predictor.load(folders, args.model, args.trust_remote_code)
    limits = Limits(args.max_characters, args.max_rows, args.max_waiting)
    with own_temporary_folder():
        page = build_page(predictor, limits, example_texts(folders[0]), about(folders, predictor.names), corrections)
        end_noise()  # what goes wrong from now on is for the person at the terminal
        serve(page, args.host, args.port, args.share, args.known_as or ())


if __name__ == "__main__":
    main()
