"""The forwarder of deploy/, with an Orthanc that is played."""

import importlib.util
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/orthanc_forward.py"
CHEST = {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}


@pytest.fixture(scope="module")
def forward():
    spec = importlib.util.spec_from_file_location("orthanc_forward", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Played:
    """An Orthanc with instances in the order of their arrival, and a listener that may be down or refuse some."""

    def __init__(self):
        self.changes, self.tags, self.sent, self.refused = [], {}, [], set()
        self.is_listening, self.password, self.asked = True, "", 0

    def add(self, name, tags=CHEST):
        self.tags[name] = tags
        for kind in ("NewInstance", "NewSeries"):
            self.changes.append({"Seq": len(self.changes) + 1, "ChangeType": kind, "ID": name})

    def answer(self, path, content):
        """Return status and content of an answer, as Orthanc 1.10.1 gives them."""
        self.asked += 1
        if path == "/changes?last":
            return 200, {"Changes": self.changes[-1:], "Last": len(self.changes)}
        if path.startswith("/changes?since="):
            since = int(path.partition("=")[2].partition("&")[0])
            page = self.changes[since : since + 100]
            last = page[-1]["Seq"] if page else since
            return 200, {"Changes": page, "Done": last >= len(self.changes), "Last": last}
        if path.startswith("/instances/"):
            name = path.split("/")[2]
            return (200, self.tags[name]) if name in self.tags else (404, {})
        if path == "/modalities/pneumoseg/echo":
            return (200 if self.is_listening else 500), {}
        if path == "/modalities/pneumoseg/store":
            (name,) = content["Resources"]
            if name not in self.tags:
                return 404, {}
            if not self.is_listening or name in self.refused:
                return 500, {"Details": "Secretperson"}
            self.sent.append(name)
            return 200, {}
        return 404, {}


@pytest.fixture
def orthanc(forward, monkeypatch, tmp_path):
    """An Orthanc that is played, with its `url`."""
    played = Played()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, content=None):
            status, answer = played.answer(self.path, content)
            if played.password and self.headers["Authorization"] != played.password:
                status, answer = 401, {}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.do_GET(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    played.url = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    server.server_close()


@pytest.fixture
def forwarder(forward, orthanc, tmp_path):
    """Return a function that makes a forwarder, as a start of the script does."""

    def make(**options):
        return forward.Forwarder(forward.Orthanc(orthanc.url), "pneumoseg", tmp_path / "state.json", **options)

    return make


@pytest.mark.parametrize(
    "tags",
    [
        CHEST,
        CHEST | {"Modality": "DX", "ViewPosition": "AP"},
        {"Modality": "CR", "BodyPartExamined": "chest"},
        {"Modality": "CR"},
        CHEST | {"Modality": " DX "},
        *[
            CHEST | {"BodyPartExamined": part}
            for part in ("", "  ", None, "Chest PA", "W033 Chest", "CHEST_PA", "CHEST-AP", "Rib, Thorax", "LUNG L")
        ],
        *[CHEST | {"ViewPosition": view} for view in (None, "", "pa", " AP ")],
    ],
)
def test_frontal_chest_x_rays_are_wanted(forward, tags):
    assert forward.unwanted(tags) == ""


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (CHEST | {"ViewPosition": "LL"}, "with another view"),
        (CHEST | {"ViewPosition": "LATERAL"}, "with another view"),
        (CHEST | {"BodyPartExamined": "ABDOMEN"}, "with another part of the body"),
        (CHEST | {"BodyPartExamined": "ABDOMEN CHESTNUT"}, "with another part of the body"),
        (CHEST | {"Modality": "CT"}, "not an X-ray"),
        (CHEST | {"Modality": "DX", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "raw data"),
        (CHEST | {"Manufacturer": "pneumoseg"}, "a result of pneumoseg"),
        ({}, "not an X-ray"),
        ([], "not an X-ray"),
    ],
)
def test_other_images_are_not_wanted(forward, tags, reason):
    assert forward.unwanted(tags) == reason


def test_x_rays_that_are_passed_over_are_counted(forward, orthanc, forwarder, caplog):
    """Since the state moves on they never come, so whoever runs the script has to hear of it."""
    secret = {"PatientName": "Secretperson"}
    for number, part in enumerate(("ABDOMEN", "HAND", "CHEST")):
        orthanc.add(f"i{number}", CHEST | {"BodyPartExamined": part} | secret)
    orthanc.add("lateral", CHEST | {"ViewPosition": "LL"} | secret)
    orthanc.add("ct", CHEST | {"Modality": "CT"} | secret)
    orthanc.add("ours", CHEST | {"Manufacturer": "pneumoseg"} | secret)
    orthanc.add("deleted")
    del orthanc.tags["deleted"]
    running = forwarder()
    with caplog.at_level(logging.INFO):
        forward.run_once(running)
    assert orthanc.sent == ["i2"]
    assert caplog.messages == [
        "3 X-rays passed over: 2 with another part of the body, 1 with another view",
        "1 images sent",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        forward.run_once(running)
    assert caplog.messages == []


def test_our_own_objects_are_not_wanted(forward):
    from pneumoseg.dicom_objects.maker import MAKER

    assert forward.OUR_MANUFACTURER == MAKER


def test_each_image_is_sent_once(forward, orthanc, forwarder):
    for number in range(130):  # three pages of changes
        orthanc.add(f"i{number}", CHEST if number % 2 else {"Modality": "CT"})
    assert forward.run_once(forwarder()) == ""
    wanted = [f"i{number}" for number in range(1, 130, 2)]
    assert orthanc.sent == wanted
    assert forward.run_once(forwarder()) == ""
    orthanc.add("later")
    assert forward.run_once(forwarder()) == ""
    assert orthanc.sent == [*wanted, "later"]


def test_images_wait_for_a_listener_that_is_down(forward, orthanc, forwarder):
    orthanc.add("a")
    orthanc.add("b")
    orthanc.is_listening = False
    message = forward.run_once(forwarder())
    assert message.startswith("2 images wait: the listener does not answer (HTTP 500 from Orthanc)")
    orthanc.is_listening = True
    assert forward.run_once(forwarder()) == ""  # after a restart
    assert orthanc.sent == ["a", "b"]


def test_an_image_that_is_refused_does_not_hold_up_the_others(forward, orthanc, forwarder, monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(forward.time, "monotonic", lambda: clock[0])
    for name in ("a", "refused", "c"):
        orthanc.add(name)
    orthanc.refused = {"refused"}
    running = forwarder()
    with caplog.at_level(logging.INFO):
        assert forward.run_once(running) == "1 images wait: the listener does not take them now"
    assert orthanc.sent == ["a", "c"]
    assert caplog.messages == ["2 images sent"]
    orthanc.refused = set()
    assert forward.run_once(running) != ""  # not before a minute has passed
    clock[0] = forward.SECONDS_UNTIL_RETRY
    assert forward.run_once(running) == ""
    assert orthanc.sent == ["a", "c", "refused"]


def test_images_that_were_deleted_are_passed_over(forward, orthanc, forwarder):
    for name in ("a", "b", "c"):
        orthanc.add(name)
    del orthanc.tags["a"]
    orthanc.is_listening = False
    forward.run_once(forwarder())
    del orthanc.tags["b"]
    orthanc.is_listening = True
    assert forward.run_once(forwarder()) == ""
    assert orthanc.sent == ["c"]


def test_an_orthanc_that_was_emptied_is_read_from_the_start(forward, orthanc, forwarder):
    orthanc.add("a")
    orthanc.add("b")
    forward.run_once(forwarder())
    orthanc.changes.clear()
    orthanc.add("c")
    forward.run_once(forwarder())
    assert orthanc.sent == ["a", "b", "c"]


def test_earlier_images_can_be_left_out(forward, orthanc, forwarder):
    orthanc.add("earlier")
    forward.run_once(forwarder(new_only=True))
    orthanc.add("later")
    forward.run_once(forwarder(new_only=True))
    assert orthanc.sent == ["later"]


def test_the_password_comes_from_netrc(forward, orthanc, forwarder, tmp_path):
    orthanc.add("a")
    orthanc.password = "Basic dTpw"  # u:p
    assert "check the password in .netrc" in forward.run_once(forwarder())
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    assert forward.run_once(forwarder()) == ""
    assert orthanc.sent == ["a"]


def test_a_netrc_file_with_a_mistake_is_told_without_its_text(forward, forwarder, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p secret\n")
    with pytest.raises(ValueError, match=r"\.netrc file cannot be used: check its lines") as error:
        forwarder()
    assert "secret" not in str(error.value)


def test_an_orthanc_that_is_down_is_told(forward, orthanc, tmp_path):
    absent = forward.Forwarder(forward.Orthanc("http://127.0.0.1:9"), "pneumoseg", tmp_path / "state.json")
    assert forward.run_once(absent) == "0 images wait: Orthanc does not answer (URLError): is it running?"


def test_a_state_that_cannot_be_written_is_told(forward, orthanc, tmp_path):
    orthanc.add("a")
    running = forward.Forwarder(forward.Orthanc(orthanc.url), "pneumoseg", tmp_path / "absent/state.json")
    assert "the state cannot be written ([Errno 2] No such file" in forward.run_once(running)
    assert orthanc.sent == []


def test_an_unknown_modality_is_told(forward, orthanc, tmp_path):
    orthanc.add("a")
    unknown = forward.Forwarder(forward.Orthanc(orthanc.url), "typo", tmp_path / "state.json")
    assert "does not know the modality" in forward.run_once(unknown)
    assert unknown.waiting == ["a"]


def test_progress_is_kept_if_orthanc_goes_down_in_between(forward, orthanc, forwarder, monkeypatch):
    for number in range(130):
        orthanc.add(f"i{number}")
    running = forwarder()
    answer = orthanc.answer
    monkeypatch.setattr(
        orthanc, "answer", lambda path, content: (500, {}) if "since=200" in path else answer(path, content)
    )
    assert forward.run_once(running).startswith("100 images wait")
    monkeypatch.setattr(orthanc, "answer", answer)
    assert forward.run_once(forwarder()) == ""
    assert orthanc.sent == [f"i{number}" for number in range(130)]


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_damaged_state_is_told(forward, orthanc, forwarder, tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state\.json holds no state of this script: name another file"):
        forwarder()
