"""One self-contained HTML file: warnings first, then parameters, figures, data, how to redo it."""

import base64
import html
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scaling.laws.discrepancy import told

PIXELS = 1.89  # of a page 60rem wide to the point, the same for all figures so that their text is
STYLE = """
:root{--ink:#1c1c1c;--soft:#5c5c5c;--line:#d9d9d9;--back:#fff;--warn:#fff4e0;--edge:#d55e00}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p.eq{font:1rem/1.5 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere;margin:.2rem 0}
p.soft,figcaption,small{color:var(--soft)}
.warn{background:var(--warn);border-left:4px solid var(--edge);padding:.7rem 1rem;margin:1rem 0}
.warn ul{margin:.3rem 0 0;padding-left:1.2rem}.good{border-left-color:#009e73;background:#eef8f4}
.scroll{overflow-x:auto;background:linear-gradient(90deg,var(--back) 30%,transparent),
linear-gradient(90deg,transparent,var(--back) 70%) 100% 0,
linear-gradient(90deg,rgba(0,0,0,.16),transparent),
linear-gradient(90deg,transparent,rgba(0,0,0,.16)) 100% 0;background-repeat:no-repeat;
background-size:2.5rem 100%,2.5rem 100%,.7rem 100%,.7rem 100%;
background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.93rem}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
.facts td,.facts th{text-align:left;white-space:normal;overflow-wrap:anywhere}
.facts td:first-child{white-space:nowrap}
.notes td:last-child,.notes th:last-child{text-align:left;white-space:normal;min-width:14rem}
figure{margin:1.2rem 0}figure img{max-width:100%;height:auto;display:block}
figcaption{font-size:.9rem;margin-top:.4rem}
pre{background:#f6f6f6;padding:.8rem;overflow-x:auto;font-size:.85rem}
summary{cursor:pointer}
@media(max-width:40rem){table{font-size:.84rem}th,td{padding:.3rem .45rem}}
@media print{main{max-width:none}figure{break-inside:avoid}}
"""


def number(value: object, digits: int = 5) -> str:
    """A cell: a number for people, text escaped, a dash for a missing value."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(str(value))
    return f"{value:.{digits}g}"


def span(interval: Sequence[float | None] | None) -> str:
    """An interval, with open sides."""
    if interval is None:
        return "–"
    return " … ".join("open" if v is None else number(v, 4) for v in interval)


def bracketed(interval: Sequence[float | None], digits: int = 5) -> str:
    """An interval as plain text."""
    return f"[{', '.join('open' if v is None else f'{v:.{digits}g}' for v in interval)}]"


def estimates(
    record: Mapping[str, Any],
) -> Iterator[tuple[str, float, Sequence[float | None] | None]]:
    """(name, value, interval if there is one) of each parameter and derived quantity of a fit.json."""
    intervals = {**record["intervals"], **record["derived_intervals"]}
    for name, value in {**record["parameters"], **record["derived"]}.items():
        yield name, value, intervals.get(name)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """An HTML table; cells are ready HTML. `kind` "facts" wraps its text."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{inner}</table></div>'


def folded(title: str, body: str, state: str = "") -> str:
    """A part that opens on a click, or is open (`state` "open")."""
    return f"<details {state}><summary>{html.escape(title)}</summary>{body}</details>"


def _warnings(items: Sequence[str]) -> str:
    if not items:
        text = "No warnings: the fit converged and nothing looked wrong."
        return f'<div class="warn good">{text}</div>'
    listed = "".join(f"<li>{html.escape(w)}</li>" for w in items)
    word = "warning" if len(items) == 1 else "warnings"
    return f'<div class="warn"><b>{len(items)} {word}</b><ul>{listed}</ul></div>'


def _parameters(record: Mapping[str, Any]) -> str:
    rows = []
    header = ["parameter", "value", f"{record['level']:.0%} bootstrap", "profile", "sandwich s.e."]
    for name, value, interval in estimates(record):
        kind = "derived" if name in record["derived"] else ""
        kind = "fixed" if name in record["fixed"] else kind
        error = None if kind == "fixed" else record["standard_errors"].get(name)
        label = html.escape(name) + (f" <small>({kind})</small>" if kind else "")
        swept = record["profile_intervals"].get(name)
        rows.append([label, number(value, 6), span(interval), span(swept), number(error, 3)])
    text = table(header, rows)
    if record["published"]:
        names = list(record["parameters"])
        rows = [
            [html.escape(label), *[number(values.get(n)) for n in names]]
            for label, values in record["published"].items()
        ]
        text += folded("Published constants of this law", table(["source", *names], rows))
    return text


def _search(record: Mapping[str, Any]) -> str:
    loss, minima = record["loss"], record["minima"]
    delta = f", delta {loss['delta']:g}" if loss["kind"] == "huber" else ""
    reached = f"of which {record['reached']:.0%} of the random ones reached the best minimum"
    facts = {
        "loss": f"{loss['kind']}{delta} on {loss['space']} residuals, {loss['reduction']}",
        "objective": number(record["objective"], 10),
        "scaled gradient": number(record["gradient_norm"], 3),
        "points used": number(record["points"]),
        "starts": f"{record['starts']}, {reached}",
        "distinct minima": number(len(minima)),
    }
    text = table(["fit", ""], list(facts.items()), "facts")
    if len(minima) > 1:
        names = list(record["parameters"])
        rows = [
            [number(m["objective"], 8), number(m["starts"])]
            + [number(m["parameters"][n]) for n in names]
            for m in minima
        ]
        text += "<p>Distinct minima, best first:</p>" + table(["objective", "starts", *names], rows)
    return text


def _data(record: Mapping[str, Any]) -> str:
    rows = [[html.escape(k), *map(number, ends)] for k, ends in record["ranges"].items()]
    text = f"<p>Source: {html.escape(record['source'])}</p>" + table(["column", "from", "to"], rows)
    if record["conventions"]:
        items = [html.escape(f"{k}: {v}") for k, v in record["conventions"].items()]
        text += f"<p>Conventions:</p><ul><li>{'</li><li>'.join(items)}</li></ul>"
    excluded = record["excluded"]
    if not excluded:
        return text + "<p>No row was excluded.</p>"
    rows = [[number(e["row"]), html.escape(e["reason"])] for e in excluded[:200]]
    more = f"<p>… and {len(excluded) - 200} more</p>" if len(excluded) > 200 else ""
    body = table(["row", "reason"], rows, "facts") + more
    return text + folded(f"{len(excluded)} rows excluded", body, "open")


def _optima(record: Mapping[str, Any]) -> str:
    rows = []
    for o in record["optimum"]:
        cells = [number(o["flops"], 4)]
        for name in ("params", "tokens", "loss"):
            interval = o["intervals"].get(name)
            below = f"<br><small>{span(interval)}</small>" if interval else ""
            cells.append(number(o[name], 4) + below)
        outside = "inside" if o["outside"] == 1 else f"{o['outside']:.3g} times outside"
        rows.append([*cells, outside])
    header = ["budget (FLOP)", "params", "tokens", "loss", "data"]
    title = f"<h2>Compute-optimal allocation ({html.escape(record['cost'])})</h2>"
    return title + table(header, rows) if rows else ""


def _forecasts(record: Mapping[str, Any]) -> str:
    rows = []
    for f in record["forecasts"]:
        run = "<br>".join(f"{html.escape(k)} {v:.4g}" for k, v in f["variables"].items())
        far = "<br>".join(f"{html.escape(k)} {v:.3g} times" for k, v in f["outside"].items())
        spans = [span(f["mean_interval"]), span(f["run_interval"])]
        rows.append([run, number(f["value"]), *spans, far or "inside"])
    header = ["run", "predicted", "the law", "one run", "outside the data"]
    note = "<p class='soft'>Intervals for the law's curve and for one new run (with noise).</p>"
    facts = [
        html.escape(text)
        for f in record["forecasts"]
        for text in told(f["form"], f["public"], record["law"])
    ]
    listed = "".join(f"<li>{text}</li>" for text in dict.fromkeys(facts))
    return f"<h2>Predictions</h2>{table(header, rows)}{note}<ul>{listed}</ul>" if rows else ""


def _comparison(record: Mapping[str, Any]) -> str:
    keys = ("law", "parameters", "rolling", "held_out", "extrapolation", "aicc", "bic")
    digits = (5, 5, 5, 5, 5, 6, 6)
    rows = [
        [number(s[k], d) for k, d in zip(keys, digits, strict=True)] for s in record["comparison"]
    ]
    header = ["law", "parameters", "rolling origin", "held-out error", "largest budget left out"]
    header += ["AICc", "BIC"]
    title = "Other laws on the same data" if len(rows) > 1 else "Error on runs left out"
    note = (
        "<p class='soft'>Root mean squares of residuals, smaller is better: of runs above 1/2, 1/4, "
        "1/8 and 1/16 of the largest compute under fits to those below (laws are ranked by this), "
        "of runs held out in turn, and of the largest budget under a fit to the others.</p>"
    )
    return f"<h2>{title}</h2>" + table(header, rows) + note if rows else ""


def _approaches(record: Mapping[str, Any]) -> str:
    """The exponent of N* by every way that the runs allow, and the isoFLOP minima."""
    if not record["approaches"]:
        return ""
    rows = []
    if "a" in record["derived"]:
        interval = span(record["derived_intervals"].get("a"))
        rows.append(["the fitted law (approach 3)", number(record["derived"]["a"]), interval, ""])
    details = ""
    for way in record["approaches"]:
        windows, minima = list(way["windows"].values()), way["minima"]
        across = f"{min(windows):.3f} to {max(windows):.3f}" if windows else ""
        name, interval = html.escape(way["approach"]), span(way["interval"])
        rows.append([name, number(way["exponent"]), interval, across])
        if minima:
            header = ["budget (FLOP)", "runs", "params", "loss", "doubts"]
            body = [
                [number(m["flops"], 4), number(m["points"]), number(m["params"], 4)]
                + [number(m["loss"]), html.escape("; ".join(m["warnings"]))]
                for m in minima
            ]
            doubtful = sum(bool(m["warnings"]) for m in minima)
            title = f"{way['approach']}: {len(minima)} budgets, {doubtful} doubtful"
            details += folded(title, table(header, body, "notes"))
    header = ["way", "a", "interval", "windows"]
    return "<h2>Exponent of the optimal size, N* ~ C^a</h2>" + table(header, rows) + details


def _figure(path: pathlib.Path, caption: str) -> str:
    content, caption = path.read_bytes(), html.escape(caption)
    data = base64.b64encode(content).decode()
    points = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', content)
    width = f' width="{PIXELS * float(points[1]):.0f}"' if points else ""
    image = f'<img alt="{caption}"{width} src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def render(record: Mapping[str, Any], figures: Sequence[tuple[pathlib.Path, str]]) -> str:
    """The report of one fit as one HTML string.

    Args:
      record: the content of fit.json.
      figures: SVG files with their captions, see `figures.draw_all`.
    """
    title = f"Scaling law: {record['law']}"
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>
<h1>{html.escape(title)}</h1>
<p class="eq">{html.escape(record["equation"])}</p>
<p class="soft">{html.escape(record["law_source"])}</p>
{_forecasts(record)}
{_warnings(record["warnings"])}
<h2>Parameters</h2>{_parameters(record)}
<p class="soft">{html.escape(record["interval_note"])}</p>
{_approaches(record)}
{_optima(record)}{_comparison(record)}
<h2>Figures</h2>{"".join(_figure(*drawn) for drawn in figures)}
<h2>Fit</h2>{_search(record)}
<h2>Data</h2>{_data(record)}
<h2>To reproduce</h2><pre>{html.escape(record["command"])}</pre>
<p class="soft">{html.escape(versions)}</p>
</main></body></html>
"""
