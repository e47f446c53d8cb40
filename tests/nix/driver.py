# What NixOS's test driver gives to a script, by its types, as far as the tests in vm-tests/ use it.
# Put before a script that is checked by mypy, see tests/nix/checks.sh.
import unittest
from typing import Callable, ContextManager


class Machine:
    def start(self) -> None:
        raise NotImplementedError

    def crash(self) -> None:
        raise NotImplementedError

    def log(self, msg: str) -> None:
        raise NotImplementedError

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        raise NotImplementedError

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None:
        raise NotImplementedError

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        raise NotImplementedError

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        raise NotImplementedError

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        raise NotImplementedError

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        raise NotImplementedError

    def execute(
        self, command: str, check_return: bool = True, check_output: bool = True, timeout: int | None = 900
    ) -> tuple[int, str]:
        raise NotImplementedError

    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str:
        raise NotImplementedError

    def wait_until_fails(self, command: str, timeout: int = 900) -> str:
        raise NotImplementedError


subtest: Callable[[str], ContextManager[None]]
t: unittest.TestCase
machine: Machine
