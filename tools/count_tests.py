#!/usr/bin/env python3
"""Adds up test reports, prints one line `N passed, N failed`, and fails where a test did.

Usage: count_tests.py REPORT EXIT_STATUS [REPORT EXIT_STATUS ...]

A report is a JUnit file, or Bazel's event file (*.json), which names a JUnit file for each test
target. A runner that failed without reporting a failed test (nothing compiled, say) counts as one
failure. Skipped tests are named only where there are any.
"""

from __future__ import annotations

import json
import pathlib
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections import Counter


def junit_files(report: pathlib.Path) -> list[pathlib.Path]:
    if not report.exists():
        return []
    if report.suffix != ".json":
        return [report]
    files = []
    for line in report.read_text(encoding="utf-8").splitlines():
        outputs = json.loads(line).get("testResult", {}).get("testActionOutput", [])
        for output in outputs:
            if output["name"] == "test.xml":
                path = urllib.parse.urlparse(output["uri"]).path
                files.append(pathlib.Path(urllib.request.url2pathname(path)))
    return files


def count(junit: pathlib.Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif case.find("skipped") is not None or case.get("status") == "notrun":
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts


def main(arguments: list[str]) -> int:
    total: Counter[str] = Counter()
    for report, status in zip(arguments[0::2], arguments[1::2], strict=True):
        counts: Counter[str] = Counter()
        for junit in junit_files(pathlib.Path(report)):
            counts += count(junit)
        if status != "0" and not counts["failed"]:
            counts["failed"] = 1
        total += counts
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}", flush=True)
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
