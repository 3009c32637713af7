from typing import final

@final
class GuestCall:
    def __new__(
        cls,
        set_fuel: int,
        get_fuel: int,
        call: int,
        context: int,
        function: int,
        trap: int,
        fuel: int,
        buffer: int,
        capacity: int,
        address: int,
        memory: int,
        memory_bytes: int,
        owner: object,
        /,
    ) -> GuestCall: ...
    def give(self, payload: bytes, /) -> int | None: ...
    def run(self, first: int, second: int, /) -> int | None: ...
    def read(self, place: int, size: int, /) -> bytes | None: ...
    def refuel(self) -> None: ...
    def fuel_used(self) -> int: ...
    def take_error(self) -> int | None: ...
    def close(self) -> None: ...
