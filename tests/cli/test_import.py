"""`tallystick import`: every row once, at its time and price, whatever is run twice or broken off."""

from __future__ import annotations

import gzip
import json
import signal
import time
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest

from tallystick import Tallystick
from tests.cli.commands import answer, invoke, program, start, succeed
from tests.cli.traces import AS_GPT_4O_MINI, HEADER, MAPPED, recount, write_trace
from tests.values import money

SPREAD = 20
AS_USER = ("--billable", "user:1")


def write(path: str, *lines: str) -> Path:
    file = Path(path)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def small(*rows: str) -> Path:
    return write("small.csv", HEADER, *rows)


def import_trace(file: Path, url: str, *options: object, exit_code: int = 0) -> dict[str, object]:
    result: dict[str, object] = answer(
        "import", file, *AS_GPT_4O_MINI, "--spread", SPREAD, "--database", url, *options, exit_code=exit_code
    )
    return result


def events_in(url: str) -> int:
    with Tallystick(url) as ts:
        return ts.usage.stats().totals.events


def assert_holds_the_trace(url: str, trace: Path) -> None:
    """The database says of each billable and each hour what a count of the file says, and the doctor finds nothing."""
    expected = recount(trace, SPREAD)
    with Tallystick(url) as ts:
        totals = ts.usage.stats().totals
        assert (totals.events, totals.input_tokens, totals.output_tokens, totals.cost.amount) == (
            expected.total.events,
            expected.total.input_tokens,
            expected.total.output_tokens,
            expected.total.cost,
        )
        for billable, hours in expected.by_hour.items():
            points = ts.usage.time_series(billable, interval="hour")
            found = {
                point.start: (
                    point.totals.events,
                    point.totals.input_tokens,
                    point.totals.output_tokens,
                    point.totals.cost.amount,
                )
                for point in points
                if point.totals.events
            }
            assert found == {
                hour: (count.events, count.input_tokens, count.output_tokens, count.cost)
                for hour, count in hours.items()
            }
        diagnosis = ts.doctor()
        assert diagnosis.findings == ()


# A whole file ---------------------------------------------------------------------------------------------------------


def test_an_imported_file_is_recorded_to_the_last_token_and_nano(database_url: str, trace: Path) -> None:
    expected = recount(trace, SPREAD).total
    result = import_trace(trace, database_url)
    assert result["rows"] == result["recorded"] == expected.events
    assert (result["duplicates"], result["rejected"], result["unpriced"]) == (0, 0, 0)
    assert (result["input_tokens"], result["output_tokens"]) == (expected.input_tokens, expected.output_tokens)
    assert result["costs"] == [money(f"{expected.cost} USD").to_dict()]
    assert_holds_the_trace(database_url, trace)


def test_a_second_import_changes_nothing(database_url: str, trace: Path) -> None:
    first = import_trace(trace, database_url)
    second = import_trace(trace, database_url)
    assert (second["recorded"], second["duplicates"]) == (0, first["recorded"])
    assert (second["total_tokens"], second["costs"]) == (0, [])
    assert_holds_the_trace(database_url, trace)


def test_an_import_that_was_killed_is_finished_by_the_next_one(database_url: str, tmp_path: Path) -> None:
    rows = 12_000
    trace = write_trace(tmp_path / "long.csv", rows=rows)
    with Tallystick(database_url):
        pass  # so that there is a schema to look into
    command = ("import", trace, *AS_GPT_4O_MINI, "--spread", SPREAD, "--database", database_url)
    process = start(*command, output=tmp_path / "output.txt")
    try:
        with Tallystick(database_url) as ts:
            deadline = time.monotonic() + 60
            while ts.usage.stats().totals.events < 1_000:
                assert time.monotonic() < deadline, (tmp_path / "output.txt").read_text("utf-8")
                time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    before = events_in(database_url)
    assert 0 < before < rows, "it was to be killed in the middle"

    result = import_trace(trace, database_url)
    assert (result["recorded"], result["duplicates"]) == (rows - before, before)
    assert_holds_the_trace(database_url, trace)


def test_an_import_that_the_operator_breaks_off_says_how_to_go_on(sqlite_url: str, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "long.csv", rows=12_000)
    with Tallystick(sqlite_url) as ts:
        output = tmp_path / "output.txt"
        command = ("import", trace, *AS_GPT_4O_MINI, "--spread", SPREAD, "--database", sqlite_url)
        process = start(*command, output=output)
        deadline = time.monotonic() + 60
        while ts.usage.stats().totals.events < 1_000:
            assert time.monotonic() < deadline, output.read_text("utf-8")
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert "of 12,000 rows. Run the same command again to go on." in output.read_text("utf-8")
    import_trace(trace, sqlite_url)
    assert_holds_the_trace(sqlite_url, trace)


def test_a_file_that_has_grown_adds_only_what_is_new(sqlite_url: str, tmp_path: Path) -> None:
    whole = write_trace(tmp_path / "whole.csv", rows=1_000)
    lines = whole.read_text("utf-8").splitlines()
    part = write("part.csv", *lines[:601])
    import_trace(part, sqlite_url)
    result = import_trace(whole, sqlite_url)
    assert (result["recorded"], result["duplicates"]) == (400, 600)
    assert_holds_the_trace(sqlite_url, whole)


def test_equal_rows_of_a_file_are_different_uses_and_stay_so(sqlite_url: str) -> None:
    row = "2026-01-05 10:00:00,100,20"
    file = small(row, row, row)
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url)
    assert answer("import", file, *options)["recorded"] == 3
    assert answer("import", file, *options)["duplicates"] == 3
    assert answer("import", small(row, row, row, row), *options)["recorded"] == 1


def test_equal_rows_of_two_sources_are_different_uses(sqlite_url: str) -> None:
    file = small("2026-01-05 10:00:00,100,20")
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url)
    for source in ("paris", "lima"):
        assert answer("import", file, *options, "--source", source)["recorded"] == 1
        assert answer("import", file, *options, "--source", source)["recorded"] == 0


def test_a_row_that_is_appended_while_the_file_is_imported_waits_for_the_next_import(sqlite_url: str) -> None:
    from tallystick.cli.importing import Importer, Payers, Rejects, Tally
    from tallystick.cli.instants import zone_named
    from tallystick.cli.trace_file import TraceFile
    from tallystick.cli.trace_identity import RowKeys, scan
    from tallystick.cli.trace_mapping import FieldMapping

    row = "2026-01-05 10:00:00,100,20"
    trace = TraceFile(small(row), None, None)
    columns = {"occurred_at": "TIMESTAMP", "input_tokens": "ContextTokens"}
    mapping = FieldMapping(columns, {}, zone=zone_named("UTC"), currency="USD")
    scanned = scan(trace, mapping.columns)
    small(row, row)
    with Tallystick(sqlite_url) as ts:
        for expected in ((1, 1, 0), (2, 1, 1)):
            tally = Tally()
            importer = Importer(
                ts, mapping, Payers("user", 1), RowKeys(scanned.repeated, None), Rejects(tally, None, trace)
            )
            importer.run(trace, scanned, tally, lambda _: None)
            assert (tally.rows, tally.recorded, tally.duplicates) == expected
            scanned = scan(trace, mapping.columns)


# Trying out -----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_come_and_writes_nothing(trace: Path, folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    result = import_trace(trace, url, "--dry-run")
    expected = recount(trace, SPREAD).total
    assert (result["recorded"], result["total_tokens"]) == (
        expected.events,
        expected.input_tokens + expected.output_tokens,
    )
    assert result["costs"] == [money(f"{expected.cost} USD").to_dict()]
    assert not (tmp_path / "none.db").exists()
    assert list(folder.iterdir()) == []


def test_a_dry_run_rejects_what_the_import_rejects(sqlite_url: str) -> None:
    file = small("2026-01-05 10:00:00,100,20", "2026-01-05 10:00:00,x,20", "soon,100,20", "2026-01-05,-1,20")
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url)
    tried = answer("import", file, *options, "--dry-run", exit_code=1)
    done = answer("import", file, *options, exit_code=1)
    assert tried.pop("dry_run") is not done.pop("dry_run")
    assert tried == done


# Rows that are rejected -----------------------------------------------------------------------------------------------


def test_bad_rows_are_rejected_with_line_and_reason_and_harm_no_other(sqlite_url: str) -> None:
    file = small(
        "2026-01-05 10:00:00,100,20",
        "2026-01-05 10:00:00,-1,20",
        "yesterday,100,20",
        "",
        "2026-01-05 10:00:00,1.5,20",
        ",100,20",
        "2026-01-05 10:00:00,,",
        "2026-01-05 10:00:00,100",
        '"2026-01-05\n10:00:00",100,20',
        "2026-01-05 10:00:00,100000000000000000000,20",
        "2026-01-05 10:00:01,7.0,",
    )
    result = answer("import", file, *AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url, exit_code=1)
    assert (result["rows"], result["recorded"], result["rejected"], result["total_tokens"]) == (10, 3, 7, 247)
    reasons = {one["line"]: one["reason"] for one in result["rejections"]}
    assert list(reasons) == [3, 4, 6, 7, 8, 9, 12]
    assert "zero or more" in reasons[3]
    assert "occurred_at: 'yesterday'" in reasons[4]
    assert "whole number" in reasons[6]
    assert "Column 'TIMESTAMP' is empty." in reasons[7]
    assert "One of them has to say how much was used." in reasons[8]
    assert reasons[9] == "It has 2 cells, the header has 3."
    assert "tokens" in reasons[12]


def test_rejected_rows_can_be_corrected_and_imported(sqlite_url: str) -> None:
    file = small("2026-01-05 10:00:00,100,20", "2026-01-05 10:00:00,oops,20", "2026-01-05 10:00:00,100")
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url)
    result = invoke("import", file, *options, "--rejects", "rejects.csv")
    assert result.exit_code == 1
    rejects = Path("rejects.csv").read_text("utf-8")
    assert [line.split(",")[:4] for line in rejects.splitlines()] == [
        ["TIMESTAMP", "ContextTokens", "GeneratedTokens", "rejected_line"],
        ["2026-01-05 10:00:00", "oops", "20", "3"],
        ["2026-01-05 10:00:00", "100", "", "4"],
    ]
    Path("rejects.csv").write_text(rejects.replace("oops", "40"), encoding="utf-8")
    assert answer("import", "rejects.csv", *options)["recorded"] == 2
    # A row that was corrected there is the same row when the whole file is corrected and imported again.
    again = answer("import", small("2026-01-05 10:00:00,100,20", "2026-01-05 10:00:00,40,20"), *options)
    assert (again["recorded"], again["duplicates"]) == (0, 2)


def test_only_the_first_rejections_are_listed_and_all_are_counted_and_written(sqlite_url: str) -> None:
    file = small(*(f"never,{number},1" for number in range(30)))
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url, "--rejects", "rejects.csv")
    result = invoke("import", file, *options)
    assert result.exit_code == 1
    assert result.stdout.count("line ") == 20
    assert "and 10 more" in result.stdout
    assert len(Path("rejects.csv").read_text("utf-8").splitlines()) == 31


def test_the_file_of_rejects_may_not_be_the_file_itself(sqlite_url: str) -> None:
    file = small("never,1,1")
    options = (*AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url, "--rejects", file)
    assert "That is the file to import" in answer("import", file, *options, exit_code=3)["error"]["message"]
    assert "never,1,1" in file.read_text("utf-8")


def test_the_same_rows_with_other_options_are_refused_and_change_nothing(sqlite_url: str) -> None:
    file = small("2026-01-05 10:00:00,100,20")
    options = (*MAPPED, "--provider", "openai", *AS_USER, "--database", sqlite_url)
    answer("import", file, *options, "--model", "gpt-4o-mini")
    result = invoke("import", file, *options, "--model", "gpt-4o")
    assert result.exit_code == 1
    assert "line 2: It was recorded before, with model 'gpt-4o-mini', now with 'gpt-4o'." in result.stdout
    assert "tallystick reprice" in result.stdout
    with Tallystick(sqlite_url) as ts:
        assert [group.name for group in ts.usage.stats("user:1").by_model] == ["gpt-4o-mini"]


# What goes where ------------------------------------------------------------------------------------------------------


def test_json_lines_with_objects_inside_and_gzip_are_read_like_csv(sqlite_url: str) -> None:
    lines = [
        {"at": "2026-01-05T10:00:00Z", "who": "user:7", "usage": {"prompt_tokens": 100, "cost": 0.000123456}},
        {"at": "2026-01-05T11:00:00+01:00", "who": "user:7", "usage": {"prompt_tokens": 50, "cost": "1.5e-05"}},
    ]
    with gzip.open("calls.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    options = ("--map", "occurred_at=at", "--map", "billable=who", "--map", "input_tokens=usage.prompt_tokens")
    more = ("--map", "total_cost=usage.cost", "--set", "feature=chat", "--set", "metadata.batch=a-1")
    result = answer("import", "calls.jsonl.gz", *options, *more, "--database", sqlite_url)
    assert (result["recorded"], result["total_tokens"]) == (2, 150)
    assert result["costs"] == [{"amount": "0.000138456", "currency": "USD"}]
    assert result["from"] == result["to"] == "2026-01-05T10:00:00+00:00"
    with Tallystick(sqlite_url) as ts:
        event = ts.usage.events("user:7")[0]
        assert (event.feature, dict(event.metadata)) == ("chat", {"batch": "a-1"})


def test_a_line_that_is_no_json_object_is_rejected(sqlite_url: str) -> None:
    file = write("calls.jsonl", '{"at": "2026-01-05T10:00:00Z", "in": 1}', '{"at": ', "[1]", "")
    options = ("--map", "occurred_at=at", "--map", "input_tokens=in", *AS_USER, "--rejects", "rejects.jsonl")
    result = answer("import", file, *options, "--database", sqlite_url, exit_code=1)
    assert [one["line"] for one in result["rejections"]] == [2, 3]
    written = [json.loads(line) for line in Path("rejects.jsonl").read_text("utf-8").splitlines()]
    assert [one["text"] for one in written] == ['{"at":', "[1]"]


def test_a_file_whose_columns_are_named_as_fields_needs_no_mapping(sqlite_url: str) -> None:
    file = write(
        "usage.csv",
        "occurred_at,billable,provider,model,input_tokens,cached_input_tokens,output_tokens,shoe_size",
        "2026-01-05T10:00:00Z,tenant:acme,openai,gpt-4o-mini,1000000,1000000,0,44",
    )
    result = answer("import", file, "--database", sqlite_url)
    assert (result["recorded"], result["costs"]) == (1, [{"amount": "0.075", "currency": "USD"}])


def test_every_field_of_a_record_can_be_mapped(sqlite_url: str) -> None:
    values = {
        "occurred_at": "2026-01-05T10:00:00Z",
        "billable": "tenant:acme",
        "user": "7",
        "tenant": "acme",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "feature": "search",
        "resource_type": "query",
        "billing_mode": "plan",
        "idempotency_key": "own-1",
        "currency": "EUR",
        "metadata": {"a": 1},
        "metadata.b": "2",
        "quantity": "2.5",
        "input_tokens": "1000",
        "output_tokens": 100,
        "cached_input_tokens": 50,
        "cache_write_tokens": 40,
        "cache_write_5m_tokens": 10,
        "cache_write_1h_tokens": 20,
        "reasoning_tokens": 30,
        "breakdown.input_audio_tokens": 5,
        "counts.web_searches": 3,
        "input_cost": "0.25",
        "output_cost": "0.50",
        "total_cost": "0.75",
        "service_tier": "batch",
        "estimated": "yes",
    }
    write("all.jsonl", json.dumps({f"c{number}": value for number, value in enumerate(values.values())}))
    maps = [part for number, field in enumerate(values) for part in ("--map", f"{field}=c{number}")]
    rate = write("rates.toml", "[billing.currency_rates]", 'eur_usd = "2"')
    answer("import", "all.jsonl", *maps, "--database", sqlite_url, "--config", rate)
    with Tallystick(sqlite_url) as ts:
        event = ts.usage.events("tenant:acme")[0]
    stated = event.usage
    assert (event.user, event.tenant, event.provider, event.model) == ("user:7", "tenant:acme", "openai", "gpt-4o-mini")
    assert (event.feature, event.resource_type, event.quantity) == ("search", "query", Decimal("2.5"))
    assert (event.idempotency_key, dict(event.metadata)) == ("own-1", {"a": 1, "b": "2"})
    assert (stated.input_tokens, stated.output_tokens, stated.service_tier) == (1000, 100, "batch")
    assert stated.breakdown["cache_read_tokens"] == 50
    assert stated.breakdown["cache_write_tokens"] == 40
    assert stated.breakdown["output_reasoning_tokens"] == 30
    assert stated.breakdown["input_audio_tokens"] == 5
    assert stated.counts["web_searches"] == 3
    assert "estimated" in event.flags
    assert (event.cost, stated.output_cost) == (money("1.50 USD"), money("1.00 USD"))


def test_no_keyword_of_a_usage_is_forgotten() -> None:
    import inspect

    from tallystick import ProviderUsage
    from tallystick.cli.trace_mapping import known_fields

    assert set(inspect.signature(ProviderUsage.manual).parameters) <= set(known_fields())


@pytest.mark.parametrize(
    ("written", "zone", "expected"),
    [
        ("2023-11-16 18:17:03.9799609", "UTC", "2023-11-16T18:17:03.979960+00:00"),
        ("2026-01-05 10:00:00", "America/Sao_Paulo", "2026-01-05T13:00:00+00:00"),
        ("2026-10-25 02:30:00", "Europe/Berlin", "2026-10-25T00:30:00+00:00"),
        ("2026-01-05T10:00:00+02:00", "America/Sao_Paulo", "2026-01-05T08:00:00+00:00"),
        ("2026-01-05", "UTC", "2026-01-05T00:00:00+00:00"),
        ("1767607200", "America/Sao_Paulo", "2026-01-05T10:00:00+00:00"),
        ("1767607200.1234567", "UTC", "2026-01-05T10:00:00.123456+00:00"),
        ("1767607200123", "UTC", "2026-01-05T10:00:00.123000+00:00"),
        ("1767607200123456", "UTC", "2026-01-05T10:00:00.123456+00:00"),
    ],
)
def test_times_are_read_as_exports_write_them(sqlite_url: str, written: str, zone: str, expected: str) -> None:
    file = small(f"{written},1,1")
    options = (*AS_GPT_4O_MINI, *AS_USER, "--timezone", zone, "--database", sqlite_url)
    assert answer("import", file, *options)["from"] == expected


def test_rows_are_spread_by_their_number_whatever_is_rejected(sqlite_url: str) -> None:
    file = small("2026-01-05,1,0", "never,2,0", "2026-01-05,4,0", "2026-01-05,8,0", "2026-01-05,16,0")
    options = (*AS_GPT_4O_MINI, "--spread", 2, "--spread-prefix", "tenant", "--database", sqlite_url)
    answer("import", file, *options, exit_code=1)
    with Tallystick(sqlite_url) as ts:
        assert ts.usage.stats("tenant:0").totals.input_tokens == 1 + 4 + 16
        assert ts.usage.stats("tenant:1").totals.input_tokens == 8


def test_another_delimiter_and_a_byte_order_mark_are_read(sqlite_url: str) -> None:
    Path("export.csv").write_text(
        "\N{ZERO WIDTH NO-BREAK SPACE}TIMESTAMP; ContextTokens ;GeneratedTokens\n2026-01-05;10;2\n", encoding="utf-8"
    )
    options = (*AS_GPT_4O_MINI, *AS_USER, "--delimiter", ";", "--database", sqlite_url)
    assert answer("import", "export.csv", *options)["total_tokens"] == 12


# What is refused at once ----------------------------------------------------------------------------------------------


def assert_refused(exit_code: int, said: str, *arguments: object) -> None:
    """The command says so on one line, and neither a database nor anything else came to be."""
    before = {path.name for path in Path.cwd().iterdir()}
    result = invoke("import", *arguments)
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path.name for path in Path.cwd().iterdir()} == before


@pytest.mark.parametrize(
    ("exit_code", "said", "options"),
    [
        (2, "Did you mean occurred_at?", ("--map", "occured_at=TIMESTAMP", *AS_USER)),
        (2, "Did you mean feature?", (*MAPPED, *AS_USER, "--set", "featur=chat")),
        (2, "metadata.<name>", (*MAPPED, *AS_USER, "--map", "counts=ContextTokens")),
        (2, "is not of the form --map FIELD=", ("--map", "occurred_at", *AS_USER)),
        (2, "occurred_at is given twice", ("--map", "occurred_at=a", "--map", "occurred_at=b")),
        (2, "model is given twice", (*AS_GPT_4O_MINI, *AS_USER, "--set", "model=other")),
        (2, "model is read from column 'm' and given too", (*AS_GPT_4O_MINI, *AS_USER, "--map", "model=m")),
        (2, "Say when it happened", ("--map", "input_tokens=ContextTokens", *AS_USER)),
        (2, "Say who pays", MAPPED),
        (2, "Say which column is what. small.csv has: TIMESTAMP, ContextTokens, GeneratedTokens.", AS_USER),
        (2, "The billable is given too", (*MAPPED, *AS_USER, "--spread", 2)),
        (3, "Its columns: TIMESTAMP, ContextTokens, GeneratedTokens.", ("--map", "occurred_at=Time", *AS_USER)),
        (3, "Did you mean 'Europe/Berlin'?", (*MAPPED, *AS_USER, "--timezone", "Europe/Berln")),
    ],
)
def test_a_wrong_command_is_refused_with_a_remedy_before_anything_happens(
    exit_code: int, said: str, options: tuple[object, ...]
) -> None:
    if "counts=ContextTokens" in options:
        said = "counts.<name>"
    assert_refused(exit_code, said, small("2026-01-05,1,1"), *options)


def test_a_column_that_no_json_line_has_is_refused_with_those_there_are() -> None:
    file = write("calls.jsonl", '{"at": "2026-01-05"}', '{"at": "2026-01-05", "in": 2}')
    assert_refused(3, "Its columns: at, in.", file, "--map", "occurred_at=at", "--map", "output_tokens=out", *AS_USER)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "There is no such file."),
        ("data.xlsx", b"PK", "--format csv"),
        ("empty.csv", b"", "It is empty"),
        ("latin.csv", "TIMESTAMP,Café\n".encode("latin-1"), "It is not UTF-8"),
        ("twice.csv", b"TIMESTAMP,a,a\n", "Two columns are called 'a'"),
        ("broken.csv.gz", gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\n" * 99)[:-12], "It cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert_refused(3, said, name, *AS_GPT_4O_MINI, *AS_USER)


def test_a_model_without_a_price_is_refused_before_anything_is_recorded(sqlite_url: str) -> None:
    file = small("2026-01-05,1,1")
    options = (*MAPPED, "--provider", "openai", "--model", "gpt-4o-mimi", *AS_USER, "--database", sqlite_url)
    assert answer("import", file, *options, exit_code=3)["error"]["code"] == "unknown_price"
    assert events_in(sqlite_url) == 0
    lenient = write("lenient.toml", 'on_unknown_price = "record_unpriced"')
    result = invoke("import", file, *options, "--config", lenient)
    assert result.exit_code == 0
    assert "Unpriced    1  not in the cost" in result.stdout


# What it costs and how it looks ---------------------------------------------------------------------------------------


def test_the_memory_for_a_file_does_not_grow_with_its_rows(tmp_path: Path) -> None:
    from tallystick.cli.trace_file import TraceFile
    from tallystick.cli.trace_identity import RowKeys, scan

    def peak(rows: int) -> int:
        trace = TraceFile(write_trace(tmp_path / f"{rows}.csv", rows=rows), None, None)
        tracemalloc.start()
        keys = RowKeys(scan(trace, ()).repeated, None)
        for row in trace.rows():
            keys.key(row.values)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # Eight bytes a row until they go to disk; and the one row in a hundred that is there twice is remembered.
    assert peak(24_000) - peak(8_000) < 16_000 * 16


def test_the_summary_says_what_became_of_the_rows(sqlite_url: str) -> None:
    file = small("2026-01-05 10:00:00,1000,20", "2026-01-31 23:59:59,3000,40")
    said = succeed("import", file, *AS_GPT_4O_MINI, *AS_USER, "--database", sqlite_url)
    for line in (
        "Recorded    2",
        "Tokens      4,060  (4,000 in, 60 out)",
        "Cost        0.000636 USD",
        "From        2026-01-05 10:00:00 UTC",
        "To          2026-01-31 23:59:59 UTC",
        "Next: tallystick report --month 2026-01",
    ):
        assert line in said


def test_the_command_that_is_proposed_next_works_on_the_same_database_and_repeats_no_password(
    postgres_url: str, tmp_path: Path
) -> None:
    file = small("2026-01-05 10:00:00,1000,20")
    options = (*AS_GPT_4O_MINI, *AS_USER)
    spaced = f"sqlite:///{tmp_path}/with space.db"
    said = succeed("import", file, *options, "--database", spaced)
    assert f"Next: tallystick report --month 2026-01 --database '{spaced}'\n" in said
    secret = postgres_url.replace("postgres@", "postgres:hunter2@")
    assert "hunter2" not in succeed("import", file, *options, "--database", secret)


def test_the_program_itself_imports_and_shows_no_bar_outside_of_a_terminal(sqlite_url: str, trace: Path) -> None:
    command = ("import", trace, *AS_GPT_4O_MINI, "--spread", SPREAD, "--database", sqlite_url)
    ended = program(*command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    assert_holds_the_trace(sqlite_url, trace)
