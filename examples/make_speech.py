"""Make speech.npz, the spoken digits of speech.py: synthetic voices of espeak-ng say each twice.

    apt-get install espeak-ng
    python examples/make_speech.py [FILE]

Each of its timbres gets an accent, a pitch and two speeds. Words are kept as log-mel spectrograms: the
power in bands as wide as the ear's, every 20 ms, in decibels below the loudest, as bytes.
"""

import io
import re
import shutil
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-029")
RATE, WINDOW, HOP, BANDS, FRAMES, RANGE = 22050, 512, 441, 24, 40, 60


def timbres():
    """Return the names of the timbres that espeak-ng can put on any accent."""
    listed = subprocess.check_output(["espeak-ng", "--voices=variant"], text=True)
    return sorted(re.findall(r"!v/(.+?)  ", listed))


def mel_filters():
    """Return the weights (bins, BANDS) of triangles that are equally wide on the mel scale."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rising, falling), 0)


def spectrogram(sound, filters):
    """Return the log-mel spectrogram (FRAMES, BANDS) of a word, from its first sound on."""
    sound = sound[np.argmax(np.abs(sound) > 0.02 * np.abs(sound).max()) :]
    sound = np.pad(sound, (0, FRAMES * HOP + WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2 @ filters
    decibels = 10 * np.log10(np.maximum(power / power.max(), 10 ** (-RANGE / 10)))
    return np.round(255 * (1 + decibels / RANGE)).astype(np.uint8)


def speak(word, voice, speed, pitch):
    """Return the sound of a word."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), word]
    with wave.open(io.BytesIO(subprocess.check_output(command))) as file:
        if file.getframerate() != RATE:
            raise ValueError(f"espeak-ng speaks at {file.getframerate()} Hz, not at {RATE}")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(float)


def main(path):
    """Let every timbre say every word, and write what was heard."""
    rng = np.random.default_rng(0)
    # Names that differ in a number alone, as f1 and f2, are relatives: one voice, for its listener.
    voices = {name: name.rstrip("0123456789") for name in timbres()}
    numbers = {voice: number for number, voice in enumerate(dict.fromkeys(voices.values()))}
    said = []
    for timbre, voice in voices.items():
        accent, pitch = rng.choice(ACCENTS), rng.integers(20, 80)
        for speed in rng.integers(120, 220, size=2):
            for digit, word in enumerate(WORDS):
                said.append((digit, numbers[voice], word, f"{accent}+{timbre}", speed, pitch))
    filters = mel_filters()
    with ThreadPoolExecutor() as threads:
        heard = threads.map(lambda row: spectrogram(speak(*row[2:]), filters), said)
        spectrograms = np.stack([*heard])
    labels = np.array([row[:2] for row in said], np.uint8)
    np.savez_compressed(path, spectrograms=spectrograms, digits=labels[:, 0], voices=labels[:, 1])
    size = path.stat().st_size
    print(f"{path}: {len(said):,} words, {len(numbers)} voices, {size:,} bytes")


if __name__ == "__main__":
    if not shutil.which("espeak-ng"):
        sys.exit("The voices are espeak-ng's: apt-get install espeak-ng")
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "speech.npz")
