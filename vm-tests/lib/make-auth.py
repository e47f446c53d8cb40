"""make-auth NAME [EXPIRES [LAST_REFRESH]]: an auth.json of a ChatGPT login that nobody has.

EXPIRES and LAST_REFRESH are seconds from now.
"""

import base64
import json
import sys
import time
from datetime import datetime, timedelta, timezone

name = sys.argv[1]
expires = int(sys.argv[2]) if len(sys.argv) > 2 else 864000
refreshed = int(sys.argv[3]) if len(sys.argv) > 3 else 0


def token(claims):
    def part(data):
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return ".".join([part({"alg": "none"}), part(claims), "c2lnbmVk"])


about = {"https://api.openai.com/auth": {"chatgpt_user_id": f"user-{name}", "chatgpt_plan_type": "plus"}}
at = datetime.now(timezone.utc) + timedelta(seconds=refreshed)
print(
    json.dumps(
        {
            "auth_mode": "chatgpt",
            "tokens": {
                "id_token": token(about),
                "access_token": token(about | {"exp": int(time.time()) + expires}),
                "refresh_token": f"secret-refresh-{name}",
                "account_id": f"account-{name}",
            },
            "last_refresh": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
)
