import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from modelscope_ext.audio import AudioError
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import MixConfig, Mixer, active_rms, mix_at_snr, validation_pairs
from modelscope_ext.data.rooms import align, load_rooms, save_rooms, shape_decay, simulate_rooms
from modelscope_ext.metrics import si_sdr

RATE = 16000


@pytest.fixture
def mixer(corpora, tmp_path):
    def make(seed=1, rooms=None, **options):
        cache = tmp_path / "cache"
        speech = [(load_corpus(corpora / name, cache), 1.0) for name in ("speech", "speech_6khz")]
        noise = [(load_corpus(corpora / "noise", cache), 1.0)]
        rooms = load_rooms(corpora / "rir") if rooms is None else rooms
        return Mixer(speech, noise, rooms, MixConfig(**{"seconds": 1.0, **options}), seed, {1: 6000})

    return make


def test_a_corpus_decodes_once_and_reports_what_it_leaves_out(corpora, tmp_path):
    bad = {"empty.wav": "empty", "silent.wav": "silent", "tiny.wav": "shorter than", "text.ogg": "not readable"}
    soundfile.write(corpora / "speech" / "empty.wav", np.zeros(0), RATE)
    soundfile.write(corpora / "speech" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(corpora / "speech" / "tiny.wav", np.ones(30), RATE)
    (corpora / "speech" / "text.ogg").write_text("no music")
    seen = []
    corpus = load_corpus(
        corpora / "speech", tmp_path / "cache", progress=lambda files: seen.append(len(files)) or files
    )
    assert corpus.names == ["a.wav", "b.flac"]
    assert seen == [6]
    assert all(reason in corpus.left_out[name] for name, reason in bad.items())
    stereo = soundfile.read(corpora / "speech" / "b.flac")[0]
    assert len(corpus[1]) == pytest.approx(len(stereo) * RATE / 22050, abs=2)
    assert corpus.seconds == pytest.approx((len(corpus[0]) + len(corpus[1])) / RATE)
    again = load_corpus(corpora / "speech", tmp_path / "cache", progress=lambda files: pytest.fail("decoded again"))
    assert np.array_equal(again.pcm, corpus.pcm)
    soundfile.write(corpora / "speech" / "tiny.wav", np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
    assert len(load_corpus(corpora / "speech", tmp_path / "cache")) == 3


def test_folders_without_audio_are_an_error(tmp_path):
    with pytest.raises(AudioError, match="no such folder"):
        load_corpus(tmp_path / "none", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="none of its 0 audio files is usable"):
        load_corpus(tmp_path / "empty", tmp_path / "cache")


def test_same_seed_same_bytes_with_any_number_of_workers(mixer):
    data = mixer()
    alone = [data[i] for i in range(6)]
    for workers in (0, 2):
        loader = DataLoader(data, batch_size=2, sampler=range(6), num_workers=workers)
        noisy, target = (np.concatenate(parts) for parts in zip(*(map(np.asarray, b) for b in loader), strict=True))
        assert all(np.array_equal(noisy[i], alone[i][0]) and np.array_equal(target[i], alone[i][1]) for i in range(6))
    assert not np.array_equal(mixer(seed=2)[0][0], alone[0][0])
    assert not np.array_equal(alone[1][0], alone[0][0])


def test_mixtures_have_the_asked_snr_and_level(mixer):
    options = {"clean_share": 0, "silent_share": 0, "snr_db": (5, 0), "level_dbfs": (-30, 0), "dry_share": 1}
    data = mixer(**options, babble_share=0)
    for i in range(20):
        noisy, target = data[i]
        assert noisy.dtype == target.dtype == np.float32
        assert 20 * np.log10(np.sqrt(np.mean(noisy**2))) == pytest.approx(-30, abs=0.01)
        snr = 20 * np.log10(active_rms(target) / active_rms(noisy - target))
        assert snr == pytest.approx(5, abs=0.01)


def test_distributions_are_the_configured_ones(mixer):
    data = mixer(clean_share=0.2, silent_share=0.2, dry_share=1)
    levels, clean, silent = [], 0, 0
    for i in range(300):
        noisy, target = data[i]
        assert np.isfinite(noisy).all()
        assert np.abs(noisy).max() <= 0.99 + 1e-6
        levels.append(10 * np.log10(np.mean(noisy**2)))
        silent += not target.any()
        clean += np.array_equal(noisy, target)
    assert 35 < clean < 90
    assert 35 < silent < 90
    assert np.mean(levels) == pytest.approx(-28, abs=2.5)  # peaks hold the loudest down
    assert 7 < np.std(levels) < 11


def test_target_has_the_room_of_its_own_short_decay(mixer):
    """Without noise, the mixture is the reverberant voice; the target is nearer to it than the dry voice could be."""
    room = np.zeros(8000, np.float32)
    room[0], room[6000] = 1, 0.9  # an echo after 375 ms, beyond the target's decay
    options = {"clean_share": 1, "silent_share": 0, "dry_share": 0, "spectral_share": 0, "speed_share": 0}
    noisy, target = mixer(rooms=[room], **options)[3]
    echo = np.zeros_like(target)
    shaped = shape_decay(room)
    assert shaped[6000] < 0.9 * 1e-3
    dry = target.copy()
    dry[6000:] -= shaped[6000] * target[:-6000]
    echo[6000:] = 0.9 * dry[:-6000]
    assert si_sdr(noisy, dry + echo) > 40


def test_band_limited_speech_gets_band_limited_noise(mixer):
    data = mixer(spectral_share=0, speed_share=0, dry_share=1, babble_share=0, coloured_share=0, snr_db=(0, 0))
    data.speech.share[:] = (0, 1)  # all from the second corpus
    noisy, target = data[5]
    spectrum = np.abs(np.fft.rfft(noisy - target)) ** 2
    assert spectrum[7000:].mean() < 1e-4 * spectrum[1000:5000].mean()


@pytest.mark.parametrize("share", ["babble_share", "coloured_share"])
def test_babble_and_coloured_noise_are_made(mixer, share):
    options = {"babble_share": 0, "coloured_share": 0, share: 1, "clean_share": 0, "silent_share": 0}
    noisy, target = mixer(**options)[0]
    assert np.std(noisy - target) > 0
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(noisy, mixer(**{**options, share: 0})[0][0])


def test_babble_is_heard_in_a_room(mixer):
    options = {"babble_share": 1.0, "babble_room_share": 1.0, "dry_share": 1, "clean_share": 0, "silent_share": 0}
    late = np.zeros(12000, np.float32)
    late[-1] = 1  # nothing arrives earlier
    (noisy, target), (_, same) = (mixer(rooms=rooms, spectral_share=0, **options)[0] for rooms in ([late], []))
    babble = noisy - target
    assert np.abs(babble[:11000]).max() < 1e-5 * np.abs(babble[12000:]).max()
    assert np.corrcoef(target, same)[0, 1] == pytest.approx(1)  # the speech itself stays out of it


def test_rumble_is_noise_below_its_corner(mixer):
    plain = {"spectral_share": 0, "babble_share": 0, "coloured_share": 0, "clean_share": 0, "silent_share": 0}
    quiet = mixer(rooms=[], rumble_share=1.0, rumble_hz=(50, 50), rumble_snr_db=(0, 0), snr_db=(40, 0), **plain)
    spectrum = sum(np.abs(np.fft.rfft(np.subtract(*quiet[i]))) ** 2 for i in range(8))
    assert spectrum[:100].sum() > 0.8 * spectrum.sum()
    assert active_rms(quiet[0][0] - quiet[0][1]) == pytest.approx(active_rms(quiet[0][1]), rel=0.3)


def test_noise_is_played_at_other_speeds_and_two_noises_meet(mixer):
    plain = {"spectral_share": 0, "babble_share": 0, "coloured_share": 0, "clean_share": 0, "silent_share": 0}

    def peaks_of_noise(tones, **options):
        data, tones = mixer(rooms=[], seconds=2.0, **plain, **options), iter(tones)
        data.noise.segment = lambda rng, corpus, length: np.sin(2 * np.pi * next(tones) * np.arange(length) / RATE)
        spectrum = np.abs(np.fft.rfft(np.subtract(*data[0]) * np.hanning(2 * RATE)))
        return {int(at) // 2: spectrum[at] for at in np.flatnonzero(spectrum > 0.1 * spectrum.max())[1::3]}  # by Hz

    assert list(peaks_of_noise([1000], noise_speed_share=1.0, noise_speed_range=(1.5, 1.5))) == [1500]
    assert list(peaks_of_noise([1000], noise_speed_share=1.0, noise_speed_range=(0.6, 0.6))) == [600]
    both = peaks_of_noise([1000, 3000], second_noise_share=1.0, second_noise_db=(-6.0, -6.0))
    assert list(both) == [1000, 3000]
    assert 20 * np.log10(both[3000] / both[1000]) == pytest.approx(-6, abs=0.1)


def test_what_lies_below_the_high_pass_is_no_speech(mixer):
    options = {"spectral_share": 0, "clean_share": 1.0, "silent_share": 0, "dry_share": 1, "speed_share": 0}
    before, after = (mixer(rooms=[], **options, speech_high_pass_hz=hz)[1] for hz in (0, 400))
    assert np.array_equal(*after)  # the noisy signal has lost it as well
    low, high = (
        [np.square(np.abs(np.fft.rfft(pair[1]))[band]).sum() for pair in (before, after)]
        for band in (slice(0, 200), slice(1000, 8000))
    )
    assert low[1] / high[1] < low[0] / high[0] / 100


def test_mixing_with_silence_changes_nothing():
    noise = np.ones(1000, np.float32)
    assert np.array_equal(mix_at_snr(np.zeros(1000, np.float32), noise, 10), noise)
    assert not mix_at_snr(noise, np.zeros(1000, np.float32), 10).any()


def test_simulated_rooms_reverberate_and_are_kept(tmp_path):
    rooms = simulate_rooms(np.random.default_rng(3), 2, positions=2)
    assert [len(room) for room in rooms] == [2, 2]
    responses = [each for room in rooms for each in room]
    assert all(each[0] == 1 and len(each) > 500 and np.isfinite(each).all() for each in responses)
    again = [each for room in simulate_rooms(np.random.default_rng(3), 2, positions=2) for each in room]
    assert all(np.array_equal(a, b) for a, b in zip(responses, again, strict=True))
    save_rooms(tmp_path / "rooms.npz", rooms)
    kept = load_rooms(tmp_path / "rooms.npz")
    assert [len(room) for room in kept] == [2, 2]
    for a, b in zip(responses, [each for room in kept for each in room], strict=True):
        assert np.allclose(a, b, atol=2e-3 * np.abs(a).max())


def test_rooms_of_older_files_have_one_position_each(tmp_path):
    responses = [np.arange(1, length, dtype=np.float16) for length in (5, 9, 3)]
    np.savez(tmp_path / "rooms.npz", samples=np.concatenate(responses), ends=np.cumsum([4, 8, 2]))
    kept = load_rooms(tmp_path / "rooms.npz")
    assert [len(room) for room in kept] == [1, 1, 1]
    assert all(np.array_equal(room[0], response) for room, response in zip(kept, responses, strict=True))


def test_responses_in_a_folder_are_rooms_by_their_names(tmp_path):
    house = [f"pack_house_{place}" for place in ("kitchen_far_ch0", "kitchen_far_ch1", "hall_ch0")]
    names = [*house, "Church_ch0_t165", "Church_ch1_t168", "HallPosition1_ch0_t153", "HallPosition2_ch0_t139"]
    names.append("small/Church_ch0_t165")
    (tmp_path / "small").mkdir()
    response = np.r_[np.ones(1), np.full(999, 1e-2)]
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", response, RATE)
    assert sorted(len(room) for room in load_rooms(tmp_path)) == [1, 2, 2, 3]
    assert sorted(len(room) for room in load_rooms(tmp_path, leave_out=["Hall*", "small/*"])) == [2, 3]
    with pytest.raises(AudioError, match="no impulse response"):
        load_rooms(tmp_path, leave_out=["*"])


def test_responses_begin_at_their_direct_sound():
    response = np.zeros(1000, np.float32)
    response[50], response[300] = 0.5, -0.9  # the reflection is stronger
    aligned = align(response)
    assert aligned[0] == 1
    assert aligned[250] == pytest.approx(-1.8)
    with pytest.raises(AudioError, match="silent"):
        align(np.zeros(10, np.float32))


def test_validation_pairs_are_fixed_and_in_range(corpora, tmp_path):
    speech, noise = (load_corpus(corpora / f"valid_{kind}", tmp_path / "cache") for kind in ("speech", "noise"))
    pairs = validation_pairs(speech, noise, 5, seed=1, seconds=2.0)
    again = validation_pairs(speech, noise, 5, seed=1, seconds=2.0)
    for (noisy, clean), (noisy2, _) in zip(pairs, again, strict=True):
        assert np.array_equal(noisy, noisy2)
        assert len(noisy) == 2 * RATE
        assert -5.01 <= 20 * np.log10(active_rms(clean) / active_rms(noisy - clean)) <= 15.01


def test_mixtures_fall_silent_for_a_while(mixer):
    """Both sides, in one place, as long as was asked; the rest is as it was but for the level."""
    options = {"clean_share": 0, "silent_share": 0, "dry_share": 1, "level_range_dbfs": (-30, -30)}
    whole, data = mixer(**options), mixer(**options, gap_share=1.0, gap_s=(0.25, 0.25))
    begun = 0
    for index in range(12):
        (noisy, target), before = data[index], whole[index][0]
        silent = noisy == 0
        edges = np.flatnonzero(np.diff(np.r_[0, silent, 0]))
        assert 4000 <= silent.sum() <= edges[1] - edges[0] + 2
        assert not target[silent].any()
        factor = noisy[~silent] / before[~silent]
        assert np.allclose(factor, np.median(factor), rtol=1e-3)
        begun += edges[0] == 0
    assert 2 <= begun <= 10
