"""The fog's ClientApp: beside a stock SuperNode, it hands the fog's closed cohorts up and brings acknowledgements down.

Node configuration (``flower-supernode --node-config``): ``fog-url``, the fog's loopback door; ``fog``, its name for
people; ``fog-token-file``, a file with the door's token, where it asks for one. A failure is raised: Flower makes an
error reply of it, and the cloud asks again.
"""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from evergrove.adapters.files import read_bounded
from evergrove.adapters.flower import loopback
from evergrove.adapters.flower.records import answer_to_records, question_of_records
from evergrove.core.errors import ConfigError

TOKEN_BYTES_MAX = 4096

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answers one question of the cloud's."""
    door = door_of(context.node_config)
    try:
        answer = loopback.answer(
            question_of_records(message.content), door, str(context.node_config.get("fog", "")) or str(context.node_id)
        )
    finally:
        door.close()
    return Message(answer_to_records(answer), reply_to=message)


def door_of(settings: Mapping[str, object]) -> loopback.FogDoor:
    """The fog's door as the SuperNode was told. Raises ``ConfigError``."""
    url, token_file = settings.get("fog-url"), settings.get("fog-token-file")
    if not isinstance(url, str) or not url:
        raise ConfigError("which fog? Start the SuperNode with --node-config 'fog-url=\"http://127.0.0.1:PORT\"'")
    token = None
    if token_file:
        try:
            token = read_bounded(Path(str(token_file)), TOKEN_BYTES_MAX).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"fog-token-file {token_file}: cannot be read: {fault}") from fault
    return loopback.FogDoor(url, token)
