"""SQL models as assets: from their files alone, one asset with its checks per model.

A table or incremental model is an asset like all others.  A view is never materialised: it is an external asset that
is always current, with checks.  A model that is disabled by a mistake stays in the graph under its name: it says what
is wrong, and its run fails with the same words.
"""

from collections.abc import Collection, Iterable, Iterator

import dagster as dg

from assets.common import DAILY, asset_key, columns_metadata, published, rule_results, table_asset
from assets.conditions import FOLLOWS_AS_A_WHOLE, FOLLOWS_CHECKED_INPUTS
from hfthot_platform.core.errors import SqlModelsError
from hfthot_platform.domain.contracts.views import View
from hfthot_platform.services.sql.models import DisabledModel, Models, SqlModel, TestOutcome
from hfthot_platform.services.sql.models.runner import compute, inputs_of, judge, publish
from hfthot_platform.storage.lakehouse import Lakehouse
from resources.platform import LakeDuckDB, Platform, days_of

__all__ = ["SOUND", "model_assets", "model_checks"]

#: Name of the check that a disabled model fails.
SOUND = "model_is_sound"

_Result = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


def model_assets(
    models: Models, lake: Lakehouse, daily: Collection[dg.AssetKey]
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of all models.

    Args:
        models: the models.
        lake: the lake, for the views that models read.
        daily: keys of the platform's own assets that have a partition per day.
    """
    by_day = {*daily, *(asset_key(model.name) for model in models if model.materialized == "incremental")}
    sound = [
        _view_spec(model)
        if model.materialized == "view"
        else _stored_model(model, _tables_read(model, models, lake), by_day)
        for model in models
    ]
    known = {*lake.contracts, *models.by_name, *(model.name for model in models.disabled)}
    reads = _without_circles(models.disabled)
    return [
        *sound,
        *(
            _disabled_model(model, [table for table in reads[model.name] if table in known])
            for model in models.disabled
        ),
    ]


def _without_circles(models: Collection[DisabledModel]) -> dict[str, list[str]]:
    """Return what each disabled model reads, but for what closes a circle: Dagster loads no graph that has one."""
    reads: dict[str, list[str]] = {model.name: [] for model in models}

    def leads_to(name: str, goal: str) -> bool:
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            here = ahead.pop()
            if here == goal:
                return True
            if here not in seen:
                seen.add(here)
                ahead += reads.get(here, ())
        return False

    for model in models:
        for name in model.depends_on:
            if not leads_to(name, model.name):
                reads[model.name].append(name)
    return reads


def model_checks(models: Models) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the views; those of stored models come with their assets."""
    return [_view_checks(model) for model in models if model.materialized == "view" and model.tests]


def _tables_read(model: SqlModel, models: Models, lake: Lakehouse) -> list[str]:
    """Return what a model reads; for one that follows its inputs, also the tables below the views among them.

    Views have no news of their own.
    """
    # A view of the platform is another name of its table, and no asset.
    names = [name for name in inputs_of(lake, models, model) if not isinstance(lake.views.get(name), View)]
    if _follows_inputs(model):
        return names
    # Whoever waits for no news needs no edge past a view; models below it stay, so that a run makes them first.
    views = [view for view in models if view.materialized == "view" and view.name in model.depends_on]
    stored = {model.name for model in models if model.materialized != "view"}
    below = {name for view in views for name in inputs_of(lake, models, view)} - stored - set(model.depends_on)
    return [name for name in names if name not in below]


def _follows_inputs(model: SqlModel) -> bool:
    """Return whether the model is computed again by itself when something that it reads was."""
    return model.header.schedule is None and model.header.automation != "none"


def _stored_model(model: SqlModel, inputs: list[str], daily: Collection[dg.AssetKey]) -> dg.AssetsDefinition:
    incremental = model.materialized == "incremental"
    # News without a day would ask for every day since 2010; and a view would be waited for for ever.
    dayless = [key for key in map(asset_key, inputs) if key not in daily]
    condition = FOLLOWS_CHECKED_INPUTS if incremental else FOLLOWS_AS_A_WHOLE
    if incremental and dayless:
        condition = condition.ignore(dg.AssetSelection.assets(*dayless)).with_label(
            "follows its checked inputs that have days"
        )

    @table_asset(
        model.name,
        declared=model.contract,
        deps=inputs,
        lineage=model.lineage,
        partitioned=incremental,
        follows=_follows_inputs(model),
        automation=condition,
        checks=_check_specs(model),
        owners=[_owner(model)],
        tags=dict.fromkeys(model.header.tags, ""),
        kinds=("deltalake", "duckdb", "sql"),
    )
    def stored(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: LakeDuckDB) -> _Result:
        days = days_of(context) if incremental else None
        table = platform.lake.table(model.name)
        computed = compute(platform.lake, model, days, limits=platform.limits, connect=duckdb.get_connection)
        yield from rule_results(computed.audited)
        yield from _check_results(model, computed.gates)
        commit = None
        if computed.publishable:
            commit = publish(platform.lake, computed, platform.stamp(context))
        else:
            table.quarantine(computed.audited, stamp=platform.stamp(context))
        later = [test for test in model.tests if not test.gate]
        yield from _check_results(
            model, judge(platform.lake, model, later, limits=platform.limits, connect=duckdb.get_connection)
        )
        if commit is not None:
            yield published(context, table, [commit])

    return stored


def _view_spec(model: SqlModel) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(model.name),
        deps=[asset_key(name) for name in model.depends_on],
        group_name=model.layer,
        description=f"{model.description} A view: always current.",
        owners=[_owner(model)],
        tags=dict.fromkeys(model.header.tags, ""),
        kinds={"duckdb", "sql", "view"},
        metadata=columns_metadata(model.name, model.columns, model.lineage),
    )


def _disabled_model(model: DisabledModel, reads: Collection[str]) -> dg.AssetsDefinition:
    """Return an asset in the place of a model that is disabled: its page says why, and it makes nothing."""
    incremental = model.header is not None and model.header.materialized == "incremental"

    @dg.asset(
        key=asset_key(model.name),
        group_name=model.layer,
        description="\n".join(["**Disabled.**", "", *(f"- {reason}" for reason in model.reasons)]),
        deps=[asset_key(name) for name in reads],
        # As before, so that what is known of its days stays with it.
        partitions_def=DAILY if incremental else None,
        backfill_policy=dg.BackfillPolicy.single_run() if incremental else None,
        kinds={"sql", "disabled"},
        check_specs=[
            dg.AssetCheckSpec(SOUND, asset=asset_key(model.name), description="Its file, and what it reads, are sound.")
        ],
        metadata={"disabled": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in model.reasons))},
        output_required=False,
    )
    def disabled() -> _Result:
        yield dg.AssetCheckResult(
            check_name=SOUND, asset_key=asset_key(model.name), passed=False, description=model.why
        )
        raise SqlModelsError(model.why, where=model.name)

    return disabled


def _view_checks(model: SqlModel) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(name=f"{model.name.replace('.', '_')}_tests", specs=_check_specs(model))
    def tests(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: LakeDuckDB
    ) -> Iterator[dg.AssetCheckResult]:
        del context
        yield from _check_results(
            model, judge(platform.lake, model, limits=platform.limits, connect=duckdb.get_connection)
        )

    return tests


def _check_specs(model: SqlModel) -> list[dg.AssetCheckSpec]:
    stored = model.contract is not None
    return [
        dg.AssetCheckSpec(test.name, asset=asset_key(model.name), description=test.says, blocking=stored and test.gate)
        for test in model.tests
    ]


def _check_results(model: SqlModel, outcomes: Iterable[TestOutcome]) -> Iterator[dg.AssetCheckResult]:
    for outcome in outcomes:
        yield dg.AssetCheckResult(
            asset_key=asset_key(model.name),
            check_name=outcome.test.name,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=outcome.description,
            metadata={"test": outcome.test.says, "rows": outcome.rows, "failing": outcome.failing},
        )


def _owner(model: SqlModel) -> str:
    """Return the owner as Dagster has them: an e-mail address, or a team."""
    owner = model.header.owner
    return owner if "@" in owner or owner.startswith("team:") else f"team:{owner}"
