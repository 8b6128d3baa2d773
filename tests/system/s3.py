"""S3 for the system tests: a throw-away server (tests/s3_server) or the one that ZEROFS_TEST_S3_ENDPOINT,
_BUCKET, _ACCESS_KEY, _SECRET_KEY and _REGION name; and the faulting proxy in front of it."""

import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
import urllib.parse

import harness  # noqa: F401  (ends by a signal in good order)

HERE = os.path.dirname(os.path.abspath(__file__))


class S3Server:
    """Use with `with`. A prefix of its own for each test keeps runs on a lasting server apart."""

    def __init__(self, gigabytes=8, gateways=2):
        self.options = {"S3_SERVER_GB": str(gigabytes), "S3_SERVER_GATEWAYS": str(gateways)}
        self.directory = None
        self.prefixes = itertools.count(1)
        self.run = f"run-{random.SystemRandom().randrange(1 << 48):012x}"

    def __enter__(self):
        endpoint = os.environ.get("ZEROFS_TEST_S3_ENDPOINT")
        if endpoint:
            given = lambda name, default="": os.environ.get("ZEROFS_TEST_S3_" + name, default)
            self.endpoint, self.bucket = endpoint, given("BUCKET")
            self.access_key, self.secret_key = given("ACCESS_KEY"), given("SECRET_KEY")
            self.region = given("REGION", "us-east-1")
            url = urllib.parse.urlsplit(endpoint)
            # Only plain HTTP passes the proxy, by address.
            self.hosts = [f"{url.hostname}:{url.port or 80}"] if url.scheme == "http" else []
            self.other = None
            return self
        self.directory = tempfile.mkdtemp(prefix="zerofs-s3-")
        out = subprocess.run([HERE + "/../s3_server/start", self.directory], stdout=subprocess.PIPE,
                             env={**os.environ, **self.options}, text=True, check=True).stdout
        values = dict(line.split("=", 1) for line in out.splitlines())
        self.endpoint, self.bucket = values["S3_ENDPOINT"], values["S3_BUCKET"]
        self.access_key, self.secret_key = values["S3_ACCESS_KEY"], values["S3_SECRET_KEY"]
        self.other = (values["S3_ACCESS_KEY2"], values["S3_SECRET_KEY2"])
        self.region = values["S3_REGION"]
        self.hosts = values["S3_HOSTS"].split(",")
        return self

    def __exit__(self, kind, value, trace):
        if self.directory:
            subprocess.run([HERE + "/../s3_server/stop", self.directory], check=True)
            if kind is None:
                shutil.rmtree(self.directory, ignore_errors=True)
            else:
                print("the S3 server's logs are in", self.directory + "/log")

    def gateway_pid(self, index):
        with open(f"{self.directory}/run/rgw{index}.pid") as file:
            return int(file.read())

    def url(self):
        """A prefix that nobody used before."""
        return f"s3://{self.bucket}/{self.run}/{next(self.prefixes)}"

    def environment(self, **more):
        """What a client needs, and nothing of the user's own."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        return {**clean, "AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "AWS_REGION": self.region, "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent", **more}


def proxy_program(binary):
    """Of the same build as the zerofs program."""
    return os.path.join(os.path.dirname(binary), "..", "tests", "fault_proxy", "fault_proxy")


class Proxy:
    """The faulting proxy (tests/fault_proxy/control.cc has its commands). Ends with this object."""

    def __init__(self, program, upstreams, port=0):
        self.process = subprocess.Popen([program, str(port), *upstreams], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer and not answer.startswith("error"), f"{line}: {answer}"
        return answer

    def set(self, **settings):
        for name, value in settings.items():
            self.ask(f"set {name} {value}")

    def clear(self):
        self.ask("clear")

    def zero(self):
        self.ask("zero")

    def stats(self):
        return json.loads(self.ask("stats"))

    def trace(self):
        return json.loads(self.ask("trace"))
