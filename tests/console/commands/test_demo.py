"""The command `demo`."""

from uniemox.train.events import Message


def test_the_demo_prints_its_report(run, fake):
    def run_demo(out, *, device, seed, observer):
        observer(Message(f"{out} {device} {seed}"))
        return out / "report.html"

    fake("demo")
    fake("demo.run", run_demo=run_demo)
    assert run("demo", "--out", "x", "--seed", "4") == (0, "x/report.html\n", "x auto 4\n")
    assert run("demo")[1] == "uniemox-demo/report.html\n"
