"""Results: files of the kind of their source, with all that it has beside its sound."""

import hashlib
import io
import struct
import subprocess
from fractions import Fraction
from functools import partial

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES
from conftest import speech as any_speech
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3, TIT2, TXXX
from mutagen.mp4 import MP4, MP4Cover
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from scipy.signal import correlate

from modelscope_ext.audio import AudioError, open_audio
from modelscope_ext.cli import main

speech = partial(any_speech, seconds=1.0)
NOISY = soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)


def mux(path, container, codec, audio, rate, *, video=False, tracks=1, bit_rate=96_000):
    """Write a file by FFmpeg; in a video the sound starts late and has a gap in the middle."""
    start, gap = (0.5, 0.25) if video else (0, 0)
    options = {"max_delay": "700000"} if container == "mpegts" else {}  # as FFmpeg's program has it
    with av.open(str(path), "w", format=container, options=options) as out:
        packets = []
        picture = out.add_stream("mpeg4", rate=25) if video else None
        streams = [out.add_stream(codec, rate=rate) for _ in range(tracks)]
        for number, stream in enumerate(streams):
            stream.layout = {1: "mono", 2: "stereo", 6: "5.1"}[audio.shape[1]]
            stream.metadata["language"] = ("eng", "deu")[number]
            if codec not in ("alac", "tta") and not codec.startswith("pcm"):
                stream.bit_rate = bit_rate
        if video:
            picture.width = picture.height = 64
            out.metadata["title"] = "A talk"
            seconds = [(0, 1), (1, 2)]
            out.set_chapters(
                [
                    {"id": i, "start": s, "end": e, "time_base": Fraction(1), "metadata": {"title": f"Part {i}"}}
                    for i, (s, e) in enumerate(seconds)
                ]
            )
        out.start_encoding()
        for number in range(50 if video else 0):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
            image.pts, image.time_base = number, Fraction(1, 25)
            packets += picture.encode(image)
        packets += picture.encode(None) if video else []
        for stream in streams:
            size = stream.frame_size or 1024
            resampler = av.AudioResampler(stream.format, stream.layout, rate)
            for at in range(0, len(audio), size):
                part = np.ascontiguousarray(audio[at : at + size].T)
                frame = av.AudioFrame.from_ndarray(part, "fltp", stream.layout)
                late = start + gap * (at > len(audio) / 2)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at + round(late * rate)
                for each in resampler.resample(frame):
                    packets += stream.encode(each)
            packets += stream.encode(None)
        out.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))


def made_by_ffmpeg(path, *options):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", EXAMPLES / "noisy.wav", "-t", "1", *options, path],
        check=True,
    )


def read(path, track=0):
    with open_audio(path, track) as file:
        return np.concatenate(list(file.blocks(1.0))), file.sample_rate


def streams_of(path):
    """Return kind, codec and packets (time, digest) of each stream, and the chapters."""
    with av.open(str(path)) as file:
        found = [(stream.type, stream.name, []) for stream in file.streams]
        for packet in file.demux():
            if packet.size:
                found[packet.stream_index][2].append(
                    (float(packet.pts * packet.time_base), hashlib.sha256(bytes(packet)).hexdigest())
                )
        return found, [(float(c["start"] * c["time_base"]), c["metadata"]) for c in file.chapters()]


def by_time(path, track=0):
    """Return the first channel of a track with each sample where its time stamp says, and the rate."""
    with av.open(str(path)) as file:
        frames = list(file.decode(file.streams.audio[track]))
        rate = frames[0].sample_rate
        mono = av.AudioResampler("fltp", "mono", rate)
        audio, end = np.zeros(20 * rate, np.float32), 0
        for frame in frames:
            at = end if frame.pts is None else round(frame.time * rate)
            (same,) = mono.resample(frame)
            audio[max(0, at) : at + frame.samples] = same.to_ndarray()[0, max(0, -at) :]
            end = at + frame.samples
    return audio, rate


def codec_of(path):
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        return file.format.name.split(",")[0], stream.codec_context.codec.canonical_name, stream.layout.name


def delay(audio, reference):
    return int(np.argmax(correlate(audio, reference, method="fft"))) - len(reference) + 1


# The same kind

KINDS = {
    "memo.m4a": ("ipod", "aac", 48000, 1),
    "lossless.m4a": ("ipod", "alac", 44100, 2),
    "lossless.caf": ("caf", "alac", 44100, 2),
    "surround.mp4": ("mp4", "aac", 48000, 6),
    "message.opus": ("ogg", "libopus", 48000, 1),
    "song.mp3": ("mp3", "libmp3lame", 44100, 2),
    "meeting.webm": ("webm", "libopus", 48000, 2),
    "sound.mka": ("matroska", "flac", 48000, 1),
    "old.wma": ("asf", "wmav2", 44100, 2),
    "raw.aac": ("adts", "aac", 48000, 2),
    "raw.ac3": ("ac3", "ac3", 48000, 2),
    "raw.mp2": ("mp2", "mp2", 44100, 2),
    "phone.amr": ("amr", "libopencore_amrnb", 8000, 1),
    "phone.3gp": ("3gp", "libopencore_amrnb", 8000, 1),
    "camera.mov": ("mov", "pcm_s24le", 48000, 2),
    "camera.avi": ("avi", "libmp3lame", 44100, 2),
    "stream.flv": ("flv", "aac", 44100, 1),
    "broadcast.m2ts": ("mpegts", "aac", 48000, 2),
    "broadcast.ts": ("mpegts", "mp2", 48000, 2),
    "pack.wv": ("wv", "wavpack", 48000, 1),
    "audio.tta": ("tta", "tta", 48000, 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_result_is_a_file_of_the_same_kind_and_lines_up(dry, tmp_path, name):
    container, codec, rate, channels = KINDS[name]
    source, target = tmp_path / name, tmp_path / "out" / name
    bit_rate = 12_200 if "amr" in codec else 96_000
    mux(source, container, codec, speech(rate, channels=channels), rate, bit_rate=bit_rate)
    dry.file(source, target)
    before, after = read(source), read(target)
    assert after[1] == rate
    assert abs(len(after[0]) - len(before[0])) <= {"camera.avi": 1152, "phone.3gp": 10}.get(name, 0)
    assert delay(after[0][:, 0], before[0][:, 0]) == 0
    assert codec_of(target) == codec_of(source)
    if codec not in ("alac", "flac", "wavpack", "tta"):
        assert 0.7 < target.stat().st_size / source.stat().st_size < 1.3
    if name in ("lossless.m4a", "lossless.caf", "sound.mka", "pack.wv", "audio.tta"):
        assert np.abs(after[0] - before[0]).max() <= 2**-23


@pytest.mark.parametrize("kbps", [32, 64, 128, 192])
@pytest.mark.parametrize("kind", ["constant.mp3", "variable.mp3", "a.opus", "a.ogg"])
def test_the_bit_rate_of_lossy_files_is_kept(dry, tmp_path, kind, kbps):
    subtype = {".mp3": "MPEG_LAYER_III", ".opus": "OPUS", ".ogg": "VORBIS"}[(tmp_path / kind).suffix]
    level = {".mp3": (320 - kbps) / 288, ".opus": (256 - kbps) / 250, ".ogg": 1 - kbps / 200}[(tmp_path / kind).suffix]
    mode = {"constant.mp3": "CONSTANT", "variable.mp3": "VARIABLE"}.get(kind)
    source, target = tmp_path / kind, tmp_path / "out" / kind
    options = {"bitrate_mode": mode} if mode else {}
    with soundfile.SoundFile(
        source, "w", 44100 if subtype != "OPUS" else 48000, 1, subtype, None, "MP3" if mode else "OGG",
        compression_level=min(level, 0.999), **options,
    ) as file:  # fmt: skip
        file.write(speech(file.samplerate))
    dry.file(source, target)
    assert 0.8 < target.stat().st_size / source.stat().st_size < 1.25
    assert len(read(target)[0]) == len(read(source)[0])


@pytest.mark.parametrize(
    ("rate", "kbps"), [(8000, 16), (11025, 24), (16000, 32), (24000, 40), (24000, 56), (32000, 40), (44100, 56)]
)
def test_mp3_files_of_few_bits_come_back(dry, tmp_path, rate, kbps):
    """A frame of them may have no room for the header with the exact length."""
    low, high = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
    options = {"bitrate_mode": "CONSTANT", "compression_level": (high - kbps) / (high - low)}
    for channels in (1, 2):
        source, target = tmp_path / f"{channels}.mp3", tmp_path / "out" / f"{channels}.mp3"
        with soundfile.SoundFile(source, "w", rate, channels, "MPEG_LAYER_III", format="MP3", **options) as file:
            file.write(speech(rate, channels=channels))
        dry.file(source, target)
        assert len(read(target)[0]) == len(read(source)[0])


@pytest.mark.parametrize("options", [("a.mov", "-c:a", "pcm_s16le"), ("a.ogv", "-c:v", "libtheora", "-c:a", "libopus")])
def test_two_tracks_keep_their_title_without_a_warning(dry, tmp_path, caplog, options):
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=25:duration=1", "-map", "1", "-map", "0", "-map", "0")
    made_by_ffmpeg(tmp_path / options[0], *picture, "-metadata", "title=Grüße", *options[1:])
    dry.file(tmp_path / options[0], tmp_path / "out" / options[0])
    with av.open(str(tmp_path / "out" / options[0])) as file:
        assert len(file.streams) == 3
        assert "Grüße" in [each.get("title") for each in (file.metadata, *(stream.metadata for stream in file.streams))]
    assert caplog.text == ""


def test_surround_messages_of_few_bits_keep_their_bit_rate(dry, tmp_path):
    """Libsndfile's encoder turns 8 to 15 kbit/s a channel into up to 90."""
    mux(tmp_path / "a.opus", "ogg", "libopus", speech(48000, channels=6), 48000, bit_rate=64_000)
    dry.file(tmp_path / "a.opus", tmp_path / "out" / "a.opus")
    assert 0.7 < (tmp_path / "out" / "a.opus").stat().st_size / (tmp_path / "a.opus").stat().st_size < 2


def test_joined_messages_keep_their_bit_rate(dry, tmp_path):
    made_by_ffmpeg(tmp_path / "a.opus", "-c:a", "libopus", "-b:a", "24k")
    (tmp_path / "b.opus").write_bytes((tmp_path / "a.opus").read_bytes() * 2)
    dry.file(tmp_path / "b.opus", tmp_path / "out" / "b.opus")
    assert 0.7 < (tmp_path / "out" / "b.opus").stat().st_size / (tmp_path / "b.opus").stat().st_size < 1.3


def test_another_suffix_takes_its_own_codec(dry, tmp_path):
    soundfile.write(tmp_path / "talk.wav", speech(44100), 44100)
    before = read(tmp_path / "talk.wav")[0]
    for name, codec in {
        "a.m4a": "aac",
        "a.mp4": "aac",
        "a.webm": "opus",
        "a.wma": "wmav2",
        "a.mkv": "pcm_s16le",
    }.items():
        dry.file(tmp_path / "talk.wav", tmp_path / name)
        assert codec_of(tmp_path / name)[1] == codec
        audio, rate = read(tmp_path / name)
        if rate == 44100:
            assert abs(len(audio) - len(before)) <= 2048
            assert delay(audio[:, 0], before[:, 0]) == 0
        else:
            assert (codec, rate) == ("opus", 48000)
            assert len(audio) == 48000
            assert delay(audio[:, 0], speech(48000)[:, 0]) == 0


def test_eight_channels_are_read_and_written(dry, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(48000, channels=8), 48000)
    dry.file(tmp_path / "a.wav", tmp_path / "a.mp4")
    dry.file(tmp_path / "a.mp4", tmp_path / "b" / "a.mp4")
    before = read(tmp_path / "a.wav")[0]
    for name in ("a.mp4", "b/a.mp4"):
        audio = read(tmp_path / name)[0]
        assert audio.shape == before.shape
        assert all(delay(audio[:, channel], before[:, channel]) == 0 for channel in (0, 1))
        assert np.corrcoef(audio[:, 0], before[:, 0])[0, 1] > 0.9


def test_a_file_that_no_encoder_writes_is_an_error_before_any_work(dry, tmp_path, capsys):
    mux(tmp_path / "talk.mp4", "mp4", "aac", speech(48000), 48000, video=True)
    soundfile.write(tmp_path / "stereo.wav", speech(8000, channels=2), 8000)
    soundfile.write(tmp_path / "many.wav", speech(8000, channels=9), 8000)
    for source, target, reason in (
        ("talk.mp4", "talk.webm", "choose the suffix .mkv"),
        ("stereo.wav", "a.amr", "cannot be written"),
        ("many.wav", "a.m4a", "9 channels"),
    ):
        with pytest.raises(AudioError, match=reason):
            dry.file(tmp_path / source, tmp_path / target)
        assert not (tmp_path / target).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.wav", "stereo.wav", "talk.mp4"]


# Video


def assert_in_sync(source, target, track, seconds, length=0.25):
    """Compare pieces of a length that begin at some times in s."""
    (old, rate), (new, _) = by_time(source, track), by_time(target, track)
    for second in seconds:
        place = slice(round(second * rate), round((second + length) * rate))
        assert np.abs(old[place]).max() > 0.01
        assert abs(delay(new[place], old[place])) <= 0.0011 * rate


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "wmv"])
def test_a_video_keeps_its_picture_and_stays_in_sync(dry, tmp_path, suffix):
    source, target = tmp_path / f"talk.{suffix}", tmp_path / f"clean.{suffix}"
    container, codec = {"mkv": ("matroska", "aac"), "wmv": ("asf", "wmav2")}.get(suffix, (suffix, "aac"))
    mux(source, container, codec, speech(48000, seconds=1.5, channels=2), 48000, video=True, tracks=2)
    dry.file(source, target)
    (before, chapters), (after, new_chapters) = streams_of(source), streams_of(target)
    assert [stream[:2] for stream in after] == [stream[:2] for stream in before]
    assert chapters == new_chapters
    assert before[0][2] == after[0][2]  # the picture, packet by packet
    for track in range(2):
        assert_in_sync(source, target, track, seconds=(0.6, 1.7))  # before and after the gap
    with av.open(str(source)) as old, av.open(str(target)) as file:
        assert [each.language for each in file.streams.audio] == [each.language for each in old.streams.audio]
        assert file.metadata["title"] == "A talk"


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "libopus"), ("mp4", "mp3"), ("mkv", "aac"), ("mkv", "libvorbis")]
)
def test_sound_right_behind_a_gap_is_in_its_place(dry, tmp_path, suffix, codec):
    made_by_ffmpeg(tmp_path / f"whole.{suffix}", "-ar", "48000", "-c:a", codec)
    source, target = tmp_path / f"a.{suffix}", tmp_path / "out" / f"a.{suffix}"
    with av.open(str(tmp_path / f"whole.{suffix}")) as whole, av.open(str(source), "w") as out:
        copy = out.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux():
            if packet.size:
                packet.pts += round(0.7 / packet.time_base) * (packet.pts * packet.time_base > 0.5)
                packet.dts, packet.stream = packet.pts, copy
                out.mux(packet)
    audio, rate = by_time(source)
    behind = 0.6 + np.argmax(np.abs(audio[round(0.6 * rate) :]) > 1e-4) / rate
    dry.file(source, target)
    assert_in_sync(source, target, 0, seconds=(0.3, behind), length=0.02)


def test_joined_transport_streams_become_one_video(dry, tmp_path):
    one, source, target = tmp_path / "one.ts", tmp_path / "a.ts", tmp_path / "out" / "a.ts"
    mux(one, "mpegts", "aac", speech(48000, seconds=1.5), 48000, video=True)
    source.write_bytes(3 * one.read_bytes())
    dry.file(source, target)
    (before, after), audio = (streams_of(path)[0] for path in (source, target)), by_time(target)[0]
    assert [digest for _, digest in after[0][2]] == [digest for _, digest in before[0][2]]
    stamps = np.array([time for time, _ in after[0][2]])
    assert np.diff(stamps).min() > 0
    whole, rate = by_time(one)
    for number in range(3):  # the sound is as late as the first picture
        late = stamps[50 * number] - stamps[0]
        piece = whole[round(2.0 * rate) : round(2.3 * rate)]
        place = round((2.0 + late) * rate)
        assert abs(delay(audio[place : place + len(piece)], piece)) <= 0.0011 * rate


def test_one_track_of_a_video_can_be_denoised(tmp_path):
    source, target = tmp_path / "talk.mkv", tmp_path / "clean.mkv"
    mux(source, "matroska", "aac", speech(48000), 48000, video=True, tracks=2)
    assert main(["denoise", "-q", str(source), "-o", str(target), "--track", "1"]) == 0
    before, after = streams_of(source)[0], streams_of(target)[0]
    assert before[1] == after[1]
    assert before[2] != after[2]
    assert main(["denoise", "-q", str(source), "-o", str(tmp_path / "talk.wav"), "--track", "1"]) == 0
    assert main(["denoise", "-q", str(source), "-o", str(target), "--track", "2"]) == 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a"])
@pytest.mark.parametrize("track", ["1", "-1"])
def test_a_track_that_there_is_not_is_an_error(tmp_path, capsys, suffix, track):
    source = tmp_path / f"a.{suffix}"
    made_by_ffmpeg(source)
    assert main(["denoise", "-q", str(source), "-o", str(tmp_path / "out.wav"), "--track", track]) == 1
    assert f"no audio track {track}; there are 1" in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()


# Tags


def test_tags_and_covers_are_kept(dry, tmp_path):
    names = ("a.mp3", "a.flac", "a.ogg", "a.opus", "a.m4a")
    for name in names[:4]:
        subtype = {"a.opus": "OPUS"}.get(name)
        soundfile.write(tmp_path / name, speech(48000), 48000, subtype, format="OGG" if subtype else None)
    mux(tmp_path / "a.m4a", "ipod", "aac", speech(48000), 48000)
    tags = ID3()
    tags.add(TIT2(3, ["Grüße"]))
    tags.add(TXXX(3, "Recorder", ["H4n"]))
    tags.add(APIC(0, "image/png", 3, "", PNG))
    tags.save(tmp_path / "a.mp3", v2_version=3)
    APEv2().save(tmp_path / "a.mp3")
    flac = FLAC(tmp_path / "a.flac")
    picture = Picture()
    picture.data, picture.mime, picture.type = PNG, "image/png", 3
    flac.add_picture(picture)
    flac["TITLE"] = ["Grüße", "zwei"]
    flac.save()
    for kind, name in ((OggVorbis, "a.ogg"), (OggOpus, "a.opus")):
        file = kind(tmp_path / name)
        file["title"], file["recorder"] = ["Grüße"], ["H4n"] * 2
        file.save()
    file = MP4(tmp_path / "a.m4a")
    file["\xa9nam"], file["covr"], file["----:com.apple.iTunes:ISRC"] = ["Grüße"], [MP4Cover(PNG, 14)], [b"DE1"]
    file.save()
    for name in names:
        (tmp_path / name).chmod(0o640)
        dry.file(tmp_path / name, tmp_path / "out" / name)
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == 0o640
        assert abs(len(read(tmp_path / "out" / name)[0]) - len(read(tmp_path / name)[0])) == 0
    out = tmp_path / "out"
    tags = ID3(out / "a.mp3", translate=False)
    assert (tags["TIT2"].text, tags["TXXX:Recorder"].text, tags["APIC:"].data) == (["Grüße"], ["H4n"], PNG)
    assert tags.version == (2, 3, 0)
    flac = FLAC(out / "a.flac")
    assert (flac["title"], flac.pictures[0].data) == (["Grüße", "zwei"], PNG)
    for kind, name in ((OggVorbis, "a.ogg"), (OggOpus, "a.opus")):
        assert (kind(out / name)["title"], kind(out / name)["recorder"]) == (["Grüße"], ["H4n"] * 2)
    file = MP4(out / "a.m4a")
    assert (file["\xa9nam"], bytes(file["covr"][0])) == (["Grüße"], PNG)
    assert bytes(file["----:com.apple.iTunes:ISRC"][0]) == b"DE1"
    dry.file(tmp_path / "a.mp3", out / "from_mp3.flac")
    assert FLAC(out / "from_mp3.flac")["title"] == ["Grüße"]


def chunk(name, content, layout="<I"):
    return name + struct.pack(layout, len(content)) + content + b"\0" * (len(content) % 2)


@pytest.mark.parametrize("tail", [False, True])
def test_bext_cue_points_and_other_chunks_of_a_wav_are_kept(dry, tmp_path, tail):
    bext = b"A take".ljust(256, b"\0") + bytes(346)
    cue = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 8000, b"data", 0, 0, 8000)
    extra = (
        chunk(b"bext", bext) + chunk(b"cue ", cue) + chunk(b"iXML", b"<a/>!") + chunk(b"LIST", b"INFOINAM\2\0\0\0a\0")
    )
    file = io.BytesIO()
    soundfile.write(file, speech(48000, channels=2), 48000, "PCM_24", format="WAV")
    content = file.getvalue()
    content = content + extra if tail else content[:36] + extra + content[36:]
    (tmp_path / "a.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    dry.file(tmp_path / "a.wav", tmp_path / "out" / "a.wav")
    result = (tmp_path / "out" / "a.wav").read_bytes()
    assert extra in result
    assert struct.unpack("<I", result[4:8])[0] == len(result) - 8
    info = soundfile.info(tmp_path / "out" / "a.wav")
    assert (info.subtype, info.frames) == ("PCM_24", 48000)


def test_speaker_mask_and_valid_bits_of_a_wav_are_kept(dry, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(48000, channels=3), 48000, "PCM_24", format="WAVEX")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    struct.pack_into("<HI", content, 38, 20, 0x103)  # left, right, back centre
    (tmp_path / "a.wav").write_bytes(content)
    dry.file(tmp_path / "a.wav", tmp_path / "out" / "a.wav")
    assert struct.unpack_from("<HI", (tmp_path / "out" / "a.wav").read_bytes(), 38) == (20, 0x103)


def test_aiff_markers_are_kept(dry, tmp_path):
    marks = chunk(b"MARK", struct.pack(">HHI", 1, 1, 8000) + b"\3one", ">I")
    file = io.BytesIO()
    soundfile.write(file, speech(48000), 48000, "PCM_16", format="AIFF")
    content = file.getvalue() + marks
    (tmp_path / "a.aiff").write_bytes(content[:4] + struct.pack(">I", len(content) - 8) + content[8:])
    dry.file(tmp_path / "a.aiff", tmp_path / "out" / "a.aiff")
    assert (tmp_path / "out" / "a.aiff").read_bytes().endswith(marks)
    assert np.abs(read(tmp_path / "out" / "a.aiff")[0] - read(tmp_path / "a.aiff")[0]).max() <= 2**-15


def test_the_texts_of_a_caf_file_are_kept(dry, tmp_path):
    with soundfile.SoundFile(tmp_path / "a.caf", "w", 16000, 1) as file:
        file.title, file.artist = "Grüße", "H4n"
        file.write(speech(16000))
    dry.file(tmp_path / "a.caf", tmp_path / "out" / "a.caf")
    with soundfile.SoundFile(tmp_path / "out" / "a.caf") as file:
        assert (file.title, file.artist) == ("Grüße", "H4n")


def test_tags_that_cannot_be_read_cost_no_result(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.flac", speech(16000), 16000)
    flac = FLAC(tmp_path / "a.flac")
    flac["title"] = "x"
    flac.save(padding=lambda info: 0)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    at = content.index(b"TITLE=x") if b"TITLE=x" in content else content.index(b"title=x")
    content[at - 4 : at] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.flac").write_bytes(content)
    dry.file(tmp_path / "a.flac", tmp_path / "out" / "a.flac")
    assert "not all of its tags are copied" in caplog.text
    assert len(read(tmp_path / "out" / "a.flac")[0]) == 16000


# Beyond 4 GiB


def test_a_wav_that_is_too_long_for_32_bits_has_the_64_bit_header(dry, tmp_path, monkeypatch):
    for limit in ("writing.LARGE", "tags.SHORT"):
        monkeypatch.setattr(f"modelscope_ext.audio.{limit}", 10_000)
    bext = chunk(b"bext", b"A take".ljust(256, b"\0") + bytes(346))
    file = io.BytesIO()
    soundfile.write(file, speech(16000, channels=2), 16000, "PCM_24", format="WAV")
    content = file.getvalue() + bext
    (tmp_path / "a.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    dry.file(tmp_path / "a.wav", tmp_path / "out" / "a.wav")
    result = (tmp_path / "out" / "a.wav").read_bytes()
    assert (result[:4], result[12:16]) == (b"RF64", b"ds64")
    assert struct.unpack_from("<QQ", result, 20) == (len(result) - 8, 16000 * 6)
    assert result.endswith(bext)
    assert np.abs(read(tmp_path / "out" / "a.wav")[0] - read(tmp_path / "a.wav")[0]).max() <= 2**-23


def test_a_long_wav_is_begun_in_64_bits_and_a_short_one_ends_plain(dry, tmp_path):
    content = io.BytesIO()
    soundfile.write(content, speech(16000), 16000, "PCM_16", format="FLAC")
    content = bytearray(content.getvalue())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # its length is unknown
    (tmp_path / "a.flac").write_bytes(content)
    dry.file(tmp_path / "a.flac", tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFF"
    info = soundfile.info(tmp_path / "a.wav")
    assert info.format in ("WAV", "WAVEX")
    assert info.frames == 16000


def test_an_aiff_beyond_4_gib_is_refused_before_any_work(dry, tmp_path):
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 8, 192_000, 192_000 * 32, 32, 32)
    with (tmp_path / "long.wav").open("wb") as file:  # a hole, which takes no place on the disk
        file.write(head + b"data" + struct.pack("<I", 0xFFFFFFFF))
        file.truncate(44 + 2**32 + 2**20)
    with pytest.raises(AudioError, match="no more than 4 GiB"):
        dry.file(tmp_path / "long.wav", tmp_path / "a.aiff")
    assert not (tmp_path / "a.aiff").exists()


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.m4a"])
def test_paths_longer_than_a_kilobyte(dry, name, tmp_path):
    folder = tmp_path.joinpath(*["d" * 200] * 6)
    folder.mkdir(parents=True)
    dry.file(EXAMPLES / "noisy.wav", folder / name)
    dry.file(folder / name, folder / f"again_{name}")
    with open_audio(folder / f"again_{name}") as file:
        length = sum(len(block) for block in file.blocks(1))
    assert length == len(NOISY)


@pytest.mark.parametrize("codec", ["adpcm_ima_wav", "adpcm_ms"])
def test_codecs_of_whole_blocks_come_back_with_less_than_a_block_more(dry, tmp_path, codec):
    made_by_ffmpeg(tmp_path / "a.wav", "-c:a", codec)
    dry.file(tmp_path / "a.wav", tmp_path / "out" / "a.wav")
    before, after = read(tmp_path / "a.wav")[0], read(tmp_path / "out" / "a.wav")[0]
    assert codec_of(tmp_path / "out" / "a.wav")[1] == codec
    assert len(before) < len(after) < len(before) + 2041
    assert np.abs(after[len(before) :]).max() < 1e-3
    assert delay(after[:, 0], before[:, 0]) == 0


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "libmp3lame"), ("a.wav", "adpcm_g722"), ("a.voc", "pcm_mulaw")])
def test_a_codec_that_nothing_writes_becomes_16_bits_with_a_warning(dry, tmp_path, caplog, name, codec):
    made_by_ffmpeg(tmp_path / name, "-c:a", codec, "-ar", "8000")
    dry.file(tmp_path / name, tmp_path / "out" / name)
    before, after = read(tmp_path / name)[0], read(tmp_path / "out" / name)[0]
    assert soundfile.info(tmp_path / "out" / name).subtype == "PCM_16"
    assert np.abs(after - before).max() <= 2**-15
    assert f"{name}: PCM_16 is written, as no encoder for its codec fits this name" in caplog.text


@pytest.mark.parametrize(("suffix", "peak"), [("flac", 32768), ("m4a", 32768), ("opus", 8)])
def test_floats_above_full_scale_are_scaled_where_the_result_cannot_hold_them(dry, tmp_path, caplog, suffix, peak):
    audio = speech(16000)[:, 0]
    audio = audio * peak / np.abs(audio).max()
    soundfile.write(tmp_path / "a.wav", audio, 16000, "FLOAT")
    dry.file(tmp_path / "a.wav", tmp_path / f"a.{suffix}")
    assert f"its samples reach {peak}, and the result holds ±1: it is 1/{peak}" in caplog.text
    with open_audio(tmp_path / f"a.{suffix}") as file:
        found = np.concatenate(list(file.blocks(10.0)))[:, 0]
        rate = file.sample_rate
    same = found[:: rate // 16000][: len(audio)]
    assert np.corrcoef(same, audio[: len(same)])[0, 1] > 0.95
    assert 0.8 < np.abs(found).max() < 1.2


def test_a_video_of_floats_keeps_their_range(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", 32768 * speech(16000), 16000, "FLOAT")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.wav"]
    subprocess.run([*ffmpeg, "-c:a", "pcm_f32le", tmp_path / "a.mkv"], check=True)
    dry.file(tmp_path / "a.mkv", tmp_path / "out" / "a.mkv")
    before, after = (read(path)[0] for path in (tmp_path / "a.mkv", tmp_path / "out" / "a.mkv"))
    assert np.abs(after - before).max() < 1e-3 * np.abs(before).max()
    assert caplog.text == ""
