"""Vorbis in containers, ogg files with several streams, and the order of their channels."""

import hashlib
import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES
from scipy.signal import correlate

from modelscope_ext.audio import open_audio

PICTURE = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=5:d=2"]


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], check=True)


def vorbis(path, *options, picture=None):
    """Make 2 s of Vorbis in a container, with a picture of a codec and the sound twice, once from 0.5 s on."""
    sound = ["-i", EXAMPLES / "noisy.wav"]
    maps = ["-map", "1", "-map", "0", "-map", "2", "-c:v", picture] if picture else ["-map", "0"]
    inputs = [*sound, *PICTURE, "-itsoffset", "0.5", *sound] if picture else sound
    ffmpeg(*inputs, *maps, "-c:a", "libvorbis", "-ar", "44100", "-b:a", "96k", *options, "-t", "2", path)


def read(path, track=0):
    with open_audio(path, track) as file:
        return np.concatenate(list(file.blocks(1.0)))


def streams_of(path):
    """Return codec, start in s and, of a picture, the packets of each stream."""
    with av.open(str(path)) as file:
        found = [(s.codec_context.name, float((s.start_time or 0) * s.time_base), []) for s in file.streams]
        for packet in file.demux(video=0) if file.streams.video else ():
            if packet.size:
                found[packet.stream_index][2].append((packet.pts, hashlib.sha256(bytes(packet)).hexdigest()))
        return found


def assert_alike(audio, reference):
    assert audio.shape == reference.shape
    for one, other in zip(audio.T, reference.T, strict=True):
        assert np.argmax(correlate(one, other, method="fft")) == len(other) - 1
        assert np.corrcoef(one, other)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", []),
        ("a.webm", ["-ac", "2"]),
        ("a.mka", ["-b:a", "48k"]),
        ("a.ogx", ["-f", "ogg"]),
        ("a.nut", ["-q:a", "8"]),
    ],
)
def test_vorbis_in_a_container_stays_vorbis(dry, tmp_path, caplog, name, options):
    vorbis(tmp_path / name, *options)
    dry.file(tmp_path / name, tmp_path / "out" / name)
    assert [stream[0] for stream in streams_of(tmp_path / "out" / name)] == ["vorbis"]
    assert_alike(read(tmp_path / "out" / name), read(tmp_path / name))
    assert 0.8 < (tmp_path / "out" / name).stat().st_size / (tmp_path / name).stat().st_size < 1.2
    assert caplog.text == ""


@pytest.mark.parametrize(("name", "picture"), [("a.mkv", "mpeg4"), ("a.webm", "libvpx"), ("a.ogg", "libtheora")])
def test_a_video_with_vorbis_keeps_its_picture_and_stays_in_sync(dry, tmp_path, name, picture):
    vorbis(tmp_path / name, "-f", {"a.mkv": "matroska", "a.webm": "webm", "a.ogg": "ogg"}[name], picture=picture)
    dry.file(tmp_path / name, tmp_path / "out" / name)
    before, after = streams_of(tmp_path / name), streams_of(tmp_path / "out" / name)
    assert [stream[0] for stream in after] == [stream[0] for stream in before]
    assert after[0][2] == before[0][2]
    for track in range(2):
        assert_alike(read(tmp_path / "out" / name, track), read(tmp_path / name, track))
        assert after[1 + track][1] == pytest.approx(before[1 + track][1], abs=0.0011)


@pytest.mark.parametrize(("codec", "channels"), [("libvorbis", 3), ("libvorbis", 5), ("libvorbis", 6), ("libopus", 8)])
def test_channels_of_ogg_files_have_the_order_of_wav_files(dry, tmp_path, codec, channels):
    layout = {3: "3.0", 5: "5.0", 6: "5.1", 8: "7.1"}[channels]
    names = {3: "FL FR FC", 5: "FL FR FC BL BR", 6: "FL FR FC LFE BL BR", 8: "FL FR FC LFE BL BR SL SR"}[channels]
    tones = "|".join(f"0.3*sin({2 * np.pi * 20 * (number + 2):.9f}*t)" for number in range(channels))
    source, back = tmp_path / ("a.ogg" if codec == "libvorbis" else "a.opus"), tmp_path / "b.wav"
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc={tones}:c={layout}:s=48000:d=1", "-c:a", codec, "-b:a", "256k", source)

    def tones_of(audio):
        return [round(np.abs(np.fft.rfft(channel[12000:36000])).argmax() / 10) - 2 for channel in audio.T]

    expected = list(range(len(names.split())))
    assert tones_of(read(source)) == expected
    dry.file(source, tmp_path / "a.wav")
    assert tones_of(soundfile.read(tmp_path / "a.wav")[0]) == expected
    dry.file(tmp_path / "a.wav", tmp_path / "out" / source.name)
    ffmpeg("-i", tmp_path / "out" / source.name, back)
    assert tones_of(soundfile.read(back)[0]) == expected
