"""Write `digest.json` and the digests of ``python -m xent check`` from the results of this build.

`python tests/make_digest.py`: only after a change that is meant to change bits; say so in the
change log.
"""

import json

import digest
from xent.cli import bits, check

if __name__ == "__main__":
    for file, found in ((digest.FILE, digest.digests()), (check.FILE, bits.digests())):
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {file}")
