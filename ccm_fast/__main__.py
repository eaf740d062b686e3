"""``python -m ccm_fast``: the command line."""

from ccm_fast.cli import main

raise SystemExit(main())
