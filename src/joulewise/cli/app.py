"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from joulewise import __version__
from joulewise.core.errors import UsageError

__all__ = ["app"]

app = typer.Typer(
    name="joulewise",
    help="Give joulewise a trained model and its data; get back the version that does the same "
    "job for the fewest joules, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the bundle; made new.")]
Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, package.module:factory of a PyTorch module, or a Hugging Face folder.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="For a factory: .safetensors or a checkpoint of tensors."),
]
Epochs = Annotated[
    int, typer.Option("--epochs", help="With --train: how often each smaller model sees the items.")
]
Augment = Annotated[
    str,
    typer.Option(
        "--augment",
        help="With --train: change items at random: flip, shift, flip_shift (images), mixup.",
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        "--task",
        help="What the first output is: classes, values, vectors (embeddings); auto finds out.",
    ),
]
Measure = Annotated[
    str,
    typer.Option(
        "--metric",
        help="Of all answers together: macro_f1, correlation, perplexity, average_precision. "
        "auto: right or wrong per item.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="For values: largest distance to a label that is right. Default: the original's "
        "median.",
    ),
]
Train = Annotated[
    str | None,
    typer.Option("--train", help="Items to learn from, never to judge with; forms as --data."),
]
Batch = Annotated[int, typer.Option("--batch", help="Items per inference call.")]
Meter = Annotated[
    str | None, typer.Option("--meter", help="Which joule counter (see doctor); default: best.")
]
Margin = Annotated[
    float, typer.Option("--margin", help="Largest acceptable loss of quality, percentage points.")
]
Confidence = Annotated[
    float, typer.Option("--confidence", help="Of every bound and interval, percent.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="Use this runtime only; repeat for several. Default: all."),
]
Latency = Annotated[
    float | None, typer.Option("--latency-p95", help="Ceiling for a batch's p95 latency, ms.")
]
Expected = Annotated[
    int | None,
    typer.Option("--expected-inferences", help="Refuse what does not pay back within so many."),
]
Slice = Annotated[
    str | None,
    typer.Option(
        "--slice", help="Array of the data that names the slice of each item; default: its class."
    ),
]
SliceMargin = Annotated[
    float,
    typer.Option("--slice-margin", help="Refuse what certainly loses more in a slice, points."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Array of the data that is the same for items that belong together (one patient's).",
    ),
]
MaxSize = Annotated[
    float | None,
    typer.Option("--max-size", help="Largest size of the model's files, MB."),
]
MinQuality = Annotated[
    float | None,
    typer.Option("--min-quality", help="Least quality, percent, beside the margin."),
]
Proposals = Annotated[
    int, typer.Option("--proposals", help="How many more recipes a sampler may propose.")
]
MaxMinutes = Annotated[
    float | None,
    typer.Option("--max-minutes", help="End by then, with the best that was found."),
]
MaxJoules = Annotated[
    float | None,
    typer.Option("--max-joules", help="End before the run has cost more, with the best found."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the splits and of interleaving.")]
Study = Annotated[
    str | None,
    typer.Option(
        "--study",
        envvar="JOULEWISE_STUDY",
        help="Keep trials on a server: postgresql://USER@HOST/BASE or mysql://... Default: a file.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Let other machines try recipes too: auto, HOST:PORT or local (see docs/ray.md).",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Predict time, memory and joules, and end; writes nothing."),
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="Only change how the model is run, not the model.")
]
Place = Annotated[
    str | None,
    typer.Option("--place", help="Tell grams of CO2 there: DE, us:CAMX, gcp:europe-west1, world."),
]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="Ask over the network for the grid as it is now: uk, electricitymaps, "
        "energidataservice.",
    ),
]
Pue = Annotated[
    float | None,
    typer.Option("--pue", help="Energy of the building per joule of its computers, as in 1.2."),
]
Price = Annotated[float | None, typer.Option("--price", help="Tell money: price of a kWh.")]
Mlflow = Annotated[
    bool, typer.Option("--mlflow", help="Log the result to MLflow (MLFLOW_TRACKING_URI).")
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain", help="Tell where the time goes: the original and others, by operator."
    ),
]
Currency = Annotated[str | None, typer.Option("--currency", help="Of the price, as in EUR.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of the program itself."""
    if version:
        typer.echo(f"joulewise {__version__}")
        raise typer.Exit


@app.command()
def optimize(
    model: Source,
    data: Annotated[
        str, typer.Option("--data", "-d", help="A .npz, an image folder, or module:function.")
    ],
    output: Output,
    train: Train = None,
    weights: Weights = None,
    epochs: Epochs = 5,
    augment: Augment = "none",
    task: Kind = "auto",
    metric: Measure = "auto",
    tolerance: Tolerance = None,
    batch: Batch = 1,
    margin: Margin = 0.5,
    confidence: Confidence = 95.0,
    slice_: Slice = None,
    slice_margin: SliceMargin = 5.0,
    cluster: Cluster = None,
    runtime: Runtimes = None,
    latency_p95: Latency = None,
    max_size: MaxSize = None,
    min_quality: MinQuality = None,
    expected_inferences: Expected = None,
    proposals: Proposals = 8,
    max_minutes: MaxMinutes = None,
    max_joules: MaxJoules = None,
    meter: Meter = None,
    seed: Seed = 0,
    lossless: Lossless = False,
    place: Place = None,
    service: Service = None,
    pue: Pue = None,
    price: Price = None,
    currency: Currency = None,
    mlflow: Mlflow = False,
    study: Study = None,
    explain: Explain = False,
    ray: Ray = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the version of MODEL that does the same job for the fewest joules, and prove it."""
    from joulewise.cli.commands import run_optimize
    from joulewise.cli.supply import supply_asked
    from joulewise.core.settings import Budget, Settings, Usage

    supply = supply_asked(place, service, pue, price, currency)
    usage = Usage(
        batch_items=batch,
        latency_p95_s=None if latency_p95 is None else latency_p95 / 1e3,
        expected_items=expected_inferences,
        size_bytes=None if max_size is None else round(max_size * 1e6),
        quality=None if min_quality is None else min_quality / 100,
    )
    settings = Settings(
        margin=margin / 100,
        confidence=confidence / 100,
        runtimes=tuple(runtime) if runtime else None,
        meter=meter,
        seed=seed,
        lossless_only=lossless,
        epochs=epochs,
        augment=augment,
        task=task,
        tolerance=tolerance,
        slice_name=slice_,
        slice_margin=slice_margin / 100,
        cluster_name=cluster,
        proposals=proposals,
        metric=metric,
    )
    budget = Budget(max_s=None if max_minutes is None else 60 * max_minutes, max_j=max_joules)
    if dry_run:
        from joulewise.cli.dry_run import run_dry_run

        if resume or mlflow:
            raise UsageError("a dry run keeps nothing; leave --resume and --mlflow out")
        if ray is not None:
            raise UsageError("a dry run predicts what this machine alone needs; leave --ray out")
        run_dry_run(
            model, data, usage, settings, train=train, weights=weights, budget=budget,
            as_json=json, quiet=quiet,
        )  # fmt: skip
        return
    run_optimize(
        model, data, output, usage, settings, train=train, weights=weights, budget=budget,
        study_url=study, ray=ray, supply=supply, mlflow=mlflow, explain=explain, resume=resume,
        as_json=json, quiet=quiet,
    )  # fmt: skip


@app.command()
def compress(
    model: Source,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help='Steps, as in "prune(ratio=0.5) + distill + quantize(static)".'
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A .npz, an image folder, or module:function.")
    ],
    output: Output,
    train: Train = None,
    weights: Weights = None,
    task: Kind = "auto",
    metric: Measure = "auto",
    tolerance: Tolerance = None,
    batch: Batch = 1,
    margin: Margin = 0.5,
    confidence: Confidence = 95.0,
    slice_: Slice = None,
    slice_margin: SliceMargin = 5.0,
    cluster: Cluster = None,
    meter: Meter = None,
    seed: Seed = 0,
    resume: Resume = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a recipe of your own to MODEL and test the result against the original."""
    from joulewise.cli.compress import run_compress
    from joulewise.core.settings import Settings, Usage

    settings = Settings(
        margin=margin / 100, confidence=confidence / 100, meter=meter, seed=seed, task=task,
        tolerance=tolerance, slice_name=slice_, slice_margin=slice_margin / 100, metric=metric,
        cluster_name=cluster,
    )  # fmt: skip
    run_compress(
        model, recipe, data, output, Usage(batch_items=batch), settings, train=train,
        weights=weights, resume=resume, as_json=json, quiet=quiet,
    )  # fmt: skip


@app.command()
def passes(json: Json = False) -> None:
    """List the steps of which recipes are made, with their parameters."""
    from joulewise.cli.compress import run_passes

    run_passes(as_json=json)


@app.command()
def demo(
    output: Output = Path("joulewise-demo"),
    batch: Batch = 1,
    explain: Explain = False,
    resume: Resume = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Optimize a real network on real images, both of which ship with joulewise."""
    from joulewise.cli.commands import run_optimize
    from joulewise.core.settings import Settings, Usage
    from joulewise.demo import DATA, MODEL

    usage, settings = Usage(batch_items=batch), Settings(proposals=0)  # two minutes will do
    run_optimize(
        MODEL, str(DATA), output, usage, settings, explain=explain, resume=resume, as_json=json,
        quiet=quiet,
    )  # fmt: skip


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A folder that optimize wrote.")],
    meter: Meter = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove a bundle again on this machine; exit code 3 where the claim does not hold."""
    from joulewise.cli.commands import run_verify

    run_verify(bundle, meter, as_json=json, quiet=quiet)


@app.command()
def measure(
    target: Annotated[list[str], typer.Argument(metavar="MODEL | -- COMMAND...")],
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="For a model: its inputs, as in optimize.")
    ] = None,
    batch: Batch = 1,
    runtime: Annotated[str, typer.Option("--runtime", help="For a model.")] = "onnxruntime",
    threads: Annotated[
        int | None, typer.Option("--threads", help="For a model; default: the runtime's own.")
    ] = None,
    meter: Meter = None,
    min_grade: Annotated[
        str | None,
        typer.Option("--min-grade", help="For a command: refuse worse; B refuses estimates."),
    ] = None,
    idle: Annotated[
        float, typer.Option("--idle", help="For a command: watch idle power first, s.")
    ] = 0.0,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="For a command: append a row to this file.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            "--prometheus",
            metavar="FILE|PORT",
            help="For a command: add to the counters of this .prom file, or serve them on this "
            "port of this machine while it runs (ADDRESS:PORT for others).",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="For a command: joules so far, if stderr is a terminal.")
    ] = False,
    place: Place = None,
    service: Service = None,
    pue: Pue = None,
    price: Price = None,
    currency: Currency = None,
    mlflow: Mlflow = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell the joules of a model per item, or of any command (after --)."""
    from joulewise.cli.measure import Shown, is_model, run_measure_command, run_measure_model
    from joulewise.cli.supply import supply_asked

    if is_model(target):
        if data is None:
            raise UsageError("to measure a model, give its inputs with --data")
        if min_grade or idle or csv or prometheus or live:
            raise UsageError(
                "--min-grade, --idle, --csv, --prometheus and --live are for commands only"
            )
        from joulewise.core.recipe import RunSettings
        from joulewise.core.settings import Usage

        run = RunSettings(runtime=runtime, threads=threads)
        usage = Usage(batch_items=batch)
        supply = supply_asked(place, service, pue, price, currency)
        run_measure_model(
            Path(target[0]), data, usage, run, meter, supply=supply, mlflow=mlflow, as_json=json,
            quiet=quiet,
        )  # fmt: skip
    else:
        supply = supply_asked(place, service, pue, price, currency)
        show = Shown(
            csv=csv, prometheus=prometheus, live=live, supply=supply, mlflow=mlflow, as_json=json
        )
        run_measure_command(target, meter, min_grade, idle, show)


@app.command()
def compare(
    targets: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL... | 'COMMAND' 'COMMAND'...")
    ],
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="For models: their inputs, as in optimize.")
    ] = None,
    batch: Batch = 1,
    runtime: Annotated[str, typer.Option("--runtime", help="For models.")] = "onnxruntime",
    threads: Annotated[
        int | None, typer.Option("--threads", help="For models; default: the runtime's own.")
    ] = None,
    warmup: Annotated[
        int, typer.Option("--warmup", help="For commands: uncounted runs of each.")
    ] = 1,
    ignore_failure: Annotated[
        bool, typer.Option("--ignore-failure", help="For commands: exit codes do not matter.")
    ] = False,
    show_output: Annotated[
        bool, typer.Option("--show-output", help="For commands: let it through, to stderr.")
    ] = False,
    precision: Annotated[
        float, typer.Option("--precision", help="End when ratios are known to so many percent.")
    ] = 2.0,
    max_rounds: Annotated[
        int, typer.Option("--max-rounds", help="End after so many runs of each; 5 or more.")
    ] = 30,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", help="End after so long, but not before 5 rounds."),
    ] = None,
    confidence: Confidence = 95.0,
    seed: Seed = 0,
    meter: Meter = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the record to this JSON file.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell which of several models, or commands, needs fewer joules than the first."""
    from joulewise.cli.compare import Shown, are_models, run_compare_commands, run_compare_models
    from joulewise.comparison import Conduct, Terms
    from joulewise.core.recipe import RunSettings
    from joulewise.core.settings import Usage

    terms = Terms(
        precision_ratio=precision / 100,
        max_rounds=max_rounds,
        max_s=None if max_minutes is None else 60 * max_minutes,
        confidence=confidence / 100,
        seed=seed,
    )
    show = Shown(output=output, as_json=json, quiet=quiet)
    if are_models(targets, data):
        run, usage = RunSettings(runtime=runtime, threads=threads), Usage(batch_items=batch)
        run_compare_models(targets, str(data), usage, run, terms, meter, show)
    else:
        conduct = Conduct(
            warm_up_runs=warmup, ignore_failure=ignore_failure, show_output=show_output
        )
        run_compare_commands(targets, conduct, terms, meter, show)


@app.command()
def carbon(
    amount: Annotated[str | None, typer.Argument(metavar="[JOULES | PATTERN]")] = None,
    kwh: Annotated[float | None, typer.Option("--kwh", help="Kilowatt-hours, not joules.")] = None,
    place: Place = None,
    service: Service = None,
    pue: Pue = None,
    price: Price = None,
    currency: Currency = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the places, those with PATTERN in them only.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell grams of CO2, and money, of some joules in one place; or list the places."""
    from joulewise.cli.carbon import run_carbon, run_list
    from joulewise.cli.supply import supply_asked

    if show_list:
        run_list(amount or "", as_json=json)
    else:
        supply = supply_asked(place, service, pue, price, currency)
        run_carbon(amount, kwh, supply, as_json=json)


@app.command()
def calibrate(
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="rapl, another meter, or an external meter's log FILE."),
    ] = None,
    max_minutes: Annotated[
        float, typer.Option("--max-minutes", help="Longest time that it may take.")
    ] = 60.0,
    show: Annotated[bool, typer.Option("--show", help="Print what is kept, and end.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Remove what is kept, and end.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the steps.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a copy of the record to this file.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Raise the estimate from CPU time to grade C on this machine, against a better meter."""
    from joulewise.cli.calibrate import Shown, run_calibrate, run_forget, run_show

    if (reference is not None) + show + forget != 1:
        raise UsageError("give one of --reference NAME or FILE, --show and --forget")
    if not max_minutes > 0:
        raise UsageError("the most minutes must be above 0")
    shown = Shown(output=output, as_json=json, quiet=quiet)
    if reference is not None:
        run_calibrate(reference, max_minutes, seed, shown)
    elif show:
        run_show(shown)
    else:
        run_forget(quiet=quiet)


@app.command()
def doctor(
    meter: Annotated[
        str | None,
        typer.Option("--meter", help="Look at NAME:ARGUMENT too, as in plug:http://192.168.1.5"),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what works on this machine, and the one-line fix for what does not."""
    from joulewise.cli.doctor import run_doctor

    run_doctor(meter, as_json=json)
