"""``python -m ccm_fast``: the command line."""

from ccm_fast.command.main import main

raise SystemExit(main())
