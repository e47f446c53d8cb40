"""callers COUNT SECONDS: so many callers ask for a picture each, which takes so many seconds.

A caller that is sent away with 503 comes again with the same Idempotency-Key. Prints how it went:
{"pictures": [URL…], "jobs": [ID…], "sent_away": N, "without_job": N, "retry_after": [VALUE…]}
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

count, seconds = int(sys.argv[1]), sys.argv[2]
key = open("/root/key").read().strip()
lock = threading.Lock()
report = {"pictures": [], "jobs": [], "sent_away": 0, "without_job": 0, "retry_after": []}


def call(number):
    body = json.dumps({"prompt": f"picture {number} [fake sleep={seconds}]"}).encode()
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    while True:
        request = urllib.request.Request("http://127.0.0.1:8000/v1/images/generate", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=100) as answer:
                made = json.load(answer)
            with lock:
                report["pictures"].append(made["images"][0]["url"])
                report["jobs"].append(made["id"])
            return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            with lock:
                report["sent_away"] += 1
                report["without_job"] += "X-Job-Id" not in error.headers
                report["retry_after"].append(error.headers["Retry-After"])
            error.close()
            time.sleep(float(error.headers["Retry-After"]))


threads = [threading.Thread(target=call, args=(n,)) for n in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(report))
