"""What Debian's `testssl.sh` finds at the router, under both profiles and with HSTS."""

import json
import shutil

import tls_report as must
from bench_main import Result
from bench_procs import BenchError
from change_configs import all_alike, configuration, listener
from fault_client import HOST
from tls_configs import from_files, tls
from tls_files import NAME, NAMES
from tls_house import Home, Pace, fetched, trusting
from tls_report import Finding

PROFILES = ("intermediate", "modern")
HSTS = 'hsts = "max-age=31536000"'
#: Seconds for one run at most; it takes about one minute.
MOST = 300.0
#: What --quick looks at: protocols, kinds of ciphers, HTTP headers, and two vulnerabilities.
FEW = ("--protocols", "--standard", "--headers", "--heartbleed", "--robot")


def play_testssl(home: Home, pace: Pace) -> Result:
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if program is None:
        raise BenchError("testssl.sh is needed (Debian: apt install testssl.sh)")
    home.serve(1)
    shown = home.authority.sign(home.folder / "shown", "bench", *NAMES)
    settings, verdicts, figures = trusting(home.authority.file), [], {}
    for profile in PROFILES:
        line = tls(from_files(shown), profile=profile)
        text = configuration(home, home.step, all_alike(home), more=listener(home.tls_port, line, HSTS))
        begun = len(home.log)
        home.start(text, lambda: fetched(home.tls_port, settings, "/200"), f"router-{profile}")
        found = scanned(home, program, profile, () if pace.thorough else FEW)
        home.look()
        verdicts += [*must.no_weakness(profile, found), must.says_little(profile, [e.text for e in home.log[begun:]])]
        figures[profile] = [each._asdict() for each in found]
        verdicts += home.ended()
    return Result("testssl", "", figures, verdicts)


def scanned(home: Home, program: str, label: str, sections: tuple[str, ...]) -> list[Finding]:
    """Promises what a run finds; nobody but the router is spoken to.

    Raises:
        BenchError: it found nothing, or did not end in time.
    """
    file = home.folder / f"{label}.json"
    quiet = ("--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", HOST)
    words = [program, *quiet, "--add-ca", str(home.authority.file), "--jsonfile", str(file), *sections]
    # Its exit code counts findings, so it tells nothing of its own health.
    _, text = home.fleet.run("testssl", [*home.pins.load, *words, f"https://{NAME}:{home.tls_port}/200"], MOST)
    try:
        return must.findings(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise BenchError(f"testssl.sh gave no report: {error}\n{text.strip()[-600:]}") from error
