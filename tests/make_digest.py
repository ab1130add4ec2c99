"""Write `digest.json` from the results of this build: `python tests/make_digest.py`.

Only after a change that is meant to change bits; say so in the change log.
"""

import json

from digest import FILE, digests

if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=1) + "\n")
    print(f"wrote {FILE}")
