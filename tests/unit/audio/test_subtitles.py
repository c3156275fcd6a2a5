"""Subtitles, attachments and cover pictures of videos are copied as they are."""

import hashlib
import subprocess

import av
import imageio_ffmpeg
import pytest
from conftest import EXAMPLES

SUBTITLES = "1\n00:00:00,500 --> 00:00:02,001\nHello\n\n2\n00:00:03,000 --> 00:00:05,123\nWorld\n"


def ffmpeg(folder, *arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], cwd=folder, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with videos of all kinds of further streams."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "s.srt").write_text(SUBTITLES)
    (folder / "note.txt").write_text("a note")
    inputs = ["-itsoffset", "0.25", "-i", EXAMPLES / "noisy.wav", "-f", "lavfi", "-i", "testsrc=s=64x64:r=10:d=6"]
    inputs += ["-i", "s.srt"]
    ffmpeg(folder, "-i", "s.srt", "s.ass")
    codecs = ["-c:v", "mpeg4", "-c:a", "aac", "-t", "6"]
    streams = ["-map", "1", "-map", "0", "-map", "2"]
    ffmpeg(
        folder, *inputs, "-i", "s.ass", *streams, "-map", "3", *codecs, "-c:s:0", "srt", "-c:s:1", "ass",
        "-attach", "note.txt", "-metadata:s:t", "mimetype=text/plain", "-metadata:s:s:0", "language=ger", "a.mkv",
    )  # fmt: skip
    ffmpeg(folder, *inputs, *streams, *codecs, "-c:s", "mov_text", "b.mp4")
    ffmpeg(folder, "-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", "cover.jpg")
    cover = ["-c", "copy", "-disposition:v:1", "attached_pic"]
    ffmpeg(folder, "-i", "b.mp4", "-i", "cover.jpg", "-map", "0", "-map", "1", *cover, "c.mp4")
    ffmpeg(folder, "-ss", "3.5", "-i", "b.mp4", "-map", "0", "-c", "copy", "d.mp4")  # with an edit list
    return folder


def streams_of(path):
    """Return kind, language and packets of all streams but sound; subtitles begin at 0 or later."""
    with av.open(str(path)) as file:
        found = [(stream.type, stream.language, stream.disposition, []) for stream in file.streams]
        for packet in file.demux():
            shown = packet.stream.type != "subtitle" or (packet.pts or 0) >= 0
            if packet.size and packet.stream.type != "audio" and shown:
                times = [float(time * packet.time_base) for time in (packet.pts or 0, packet.duration or 0)]
                found[packet.stream_index][3].append((*times, hashlib.sha256(bytes(packet)).hexdigest()))
        return found, [stream.data for stream in file.streams if stream.type == "attachment"]


@pytest.mark.parametrize("name", ["a.mkv", "b.mp4", "c.mp4", "d.mp4"])
def test_all_streams_but_sound_are_copied(dry, folder, name):
    dry.file(folder / name, folder / "out" / name)
    before, after = streams_of(folder / name), streams_of(folder / "out" / name)
    kinds = [stream[0] for stream in before[0]]
    assert kinds.count("subtitle") == (2 if name == "a.mkv" else 1)
    assert kinds.count("video") == (2 if name == "c.mp4" else 1)
    assert all(stream[3] for stream in before[0] if stream[0] in ("video", "subtitle"))
    assert after == before
    assert before[1] == ([b"a note"] if name == "a.mkv" else [])
