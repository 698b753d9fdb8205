"""Progress in a file: a limited number of lines."""

import time

from cigan_tf import terminal


def test_progress_in_a_file_is_lines_that_become_less_frequent(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with terminal.progress_bar(desc="work", total=1000, mininterval=0, miniters=1) as progress:
        for number in range(1000):
            now[0] += 1
            progress.update()
            progress.set_postfix(loss=number)
    output = capsys.readouterr().err
    assert "\r" not in output
    assert "\n\n" not in output
    lines = output.splitlines()
    # Every 5 seconds for 100 seconds, then whenever 5 % more have passed.
    assert 60 < len(lines) < 75
    assert all(line.startswith("work:") for line in lines)
    assert " 0/1000 " in lines[0]
    assert " 5/1000 " in lines[1]
    assert " 1000/1000 " in lines[-1]
    assert "loss=999" in lines[-1]


def test_a_delayed_bar_shows_nothing_for_short_work(capsys):
    with terminal.progress_bar(desc="work", total=3, delay=60) as progress:
        progress.update(3)
    assert capsys.readouterr().err == ""


def test_lines_written_during_the_bar_stay_lines(capsys):
    with terminal.progress_bar(desc="work", total=3) as progress:
        progress.write("by the way")
        progress.update(3)
    captured = capsys.readouterr()
    assert captured.out == "by the way\n"
    assert [line.split("|")[0] for line in captured.err.splitlines()] == [
        "work:   0%",
        "work: 100%",
    ]
