"""Pictures: every state and transition is there, text cannot break them, the active states are lit."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

import statechart
from tests.unit.statechart.charts import chart_of

SVG = "{http://www.w3.org/2000/svg}"
ORDER = {
    "review": {"on": {"APPROVE": {"target": "ship", "guard": "context.total > 3"}}, "after": {"2h": "gone"}},
    "ship": {
        "type": "parallel",
        "onDone": "end",
        "states": {
            "pack": {
                "initial": "open",
                "states": {"open": {"on": {"PACKED": "closed"}}, "closed": {"type": "final"}},
            },
            "bill": {
                "initial": "charge",
                "states": {
                    "charge": {
                        "invoke": {"src": "HTTP", "id": "charge", "onDone": "paid", "onError": "#m.gone"}
                    },
                    "paid": {"type": "final"},
                    "memory": {"type": "history", "history": "deep"},
                },
            },
        },
    },
    "gone": {"type": "final"},
    "end": {"type": "final"},
}


def test_mermaid_shows_states_regions_and_transitions():
    text = statechart.diagram(chart_of(ORDER), active=["ship.pack.open", "ship.bill.charge"])

    assert (
        text
        == """stateDiagram-v2
  state "review" as s1
  state "ship" as s2 {
    state "pack" as s3 {
      state "open" as s4
      state "closed" as s5
      s5 --> [*]
      [*] --> s4
    }
    --
    state "bill" as s6 {
      state "charge" as s7
      state "paid" as s8
      s8 --> [*]
      state "memory (H*)" as s9
      [*] --> s7
    }
  }
  state "gone" as s10
  s10 --> [*]
  state "end" as s11
  s11 --> [*]
  [*] --> s1
  s1 --> s2 : APPROVE [context.total #gt; 3]
  s1 --> s10 : after 2h
  s2 --> s11 : done
  s4 --> s5 : PACKED
  s7 --> s8 : done#58; charge
  s7 --> s10 : error#58; charge
  classDef active fill:#ffd54f,stroke:#e65100,stroke-width:2px,color:#000
  class s2,s3,s4,s6,s7 active
"""
    )


def test_svg_shows_every_state_and_transition():
    chart = chart_of(ORDER)

    root = ElementTree.fromstring(statechart.diagram(chart, format="svg"))

    names = {group.get("data-state") for group in root.iter(f"{SVG}g")}
    assert names == {node.path for node in chart.nodes}
    edges = [path for path in root.iter(f"{SVG}path") if path.get("class") == "edge"]
    assert len(edges) == 6
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"m", "APPROVE [context.total > 3]", "after 2h", "memory (H*)", "paid ◉"} <= texts


def test_svg_lights_the_active_states_and_what_is_around_them():
    text = statechart.diagram(chart_of(ORDER), format="svg", active=["ship.pack.open"])

    root = ElementTree.fromstring(text)
    lit = {g.get("data-state") for g in root.iter(f"{SVG}g") if "active" in g.get("class", "").split()}
    assert lit == {"", "ship", "ship.pack", "ship.pack.open"}


def test_boxes_contain_their_children_and_do_not_overlap():
    root = ElementTree.fromstring(statechart.diagram(chart_of(ORDER), format="svg"))

    def area(group):
        rect = group.find(f"{SVG}rect")
        x, y, width, height = (int(rect.get(name)) for name in ("x", "y", "width", "height"))
        return x, y, x + width, y + height

    for group in root.iter(f"{SVG}g"):
        left, top, right, bottom = area(group)
        inner = [area(child) for child in group.findall(f"{SVG}g")]
        for x1, y1, x2, y2 in inner:
            assert left < x1 < x2 < right
            assert top < y1 < y2 < bottom
        for index, (x1, y1, x2, y2) in enumerate(inner):
            for u1, v1, u2, v2 in inner[index + 1 :]:
                assert x2 <= u1 or u2 <= x1 or y2 <= v1 or v2 <= y1


@pytest.mark.parametrize("name", ['"><script>alert(1)</script>', "a & b", "a\nb", "x] --> y : z;"])
def test_names_are_text_and_nothing_else(name):
    chart = chart_of(
        {"a": {"on": {name: {"target": "b", "guard": f"'{name.split(chr(10))[0]}' == '<'"}}}, "b": {}}
    )

    svg = statechart.diagram(chart, format="svg")
    mermaid = statechart.diagram(chart)

    ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert all(character not in mermaid.split("s1 --> s2 : ", 1)[1].splitlines()[0] for character in '<>"')
    assert len(mermaid.splitlines()) == 5


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="'mermaid' or 'svg'"):
        statechart.diagram(chart_of(ORDER), format="png")
