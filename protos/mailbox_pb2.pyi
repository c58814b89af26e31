from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("index", "offset", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    offset: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Missing(_message.Message):
    __slots__ = ("bitmap", "frame_bytes_max")
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    bitmap: bytes
    frame_bytes_max: int
    def __init__(self, bitmap: _Optional[bytes] = ..., frame_bytes_max: _Optional[int] = ...) -> None: ...

class DepositRequest(_message.Message):
    __slots__ = ("manifest", "frame", "handed_over")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    HANDED_OVER_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    frame: Frame
    handed_over: bool
    def __init__(self, manifest: _Optional[bytes] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., handed_over: _Optional[bool] = ...) -> None: ...

class DepositReply(_message.Message):
    __slots__ = ("missing", "promise")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    missing: Missing
    promise: bytes
    def __init__(self, missing: _Optional[_Union[Missing, _Mapping]] = ..., promise: _Optional[bytes] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class Listed(_message.Message):
    __slots__ = ("delivery_id", "sealed_bytes", "expires_ms", "position", "created_ms")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    SEALED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    sealed_bytes: int
    expires_ms: int
    position: int
    created_ms: int
    def __init__(self, delivery_id: _Optional[bytes] = ..., sealed_bytes: _Optional[int] = ..., expires_ms: _Optional[int] = ..., position: _Optional[int] = ..., created_ms: _Optional[int] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("deliveries", "more")
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Listed]
    more: bool
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Listed, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("delivery_id", "start", "manifest_only", "frame_bytes_max")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_ONLY_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    start: int
    manifest_only: bool
    frame_bytes_max: int
    def __init__(self, delivery_id: _Optional[bytes] = ..., start: _Optional[int] = ..., manifest_only: _Optional[bool] = ..., frame_bytes_max: _Optional[int] = ...) -> None: ...

class CollectReply(_message.Message):
    __slots__ = ("manifest", "frame")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    frame: Frame
    def __init__(self, manifest: _Optional[bytes] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("delivery_id", "receipt")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    receipt: bytes
    def __init__(self, delivery_id: _Optional[bytes] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class SettleReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReceiptsRequest(_message.Message):
    __slots__ = ("delivery_ids",)
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, delivery_ids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReceiptsReply(_message.Message):
    __slots__ = ("receipts",)
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, receipts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("delivery_id",)
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    def __init__(self, delivery_id: _Optional[bytes] = ...) -> None: ...

class CancelReply(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    def __init__(self, cancelled: _Optional[bool] = ...) -> None: ...

class UsageRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UsageReply(_message.Message):
    __slots__ = ("deliveries", "bytes", "limit_bytes")
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    deliveries: int
    bytes: int
    limit_bytes: int
    def __init__(self, deliveries: _Optional[int] = ..., bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class NudgeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NudgeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReturnRequest(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class ReturnReply(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    def __init__(self, taken: _Optional[bool] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("delivery_id", "index")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    index: int
    def __init__(self, delivery_id: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ("nonce", "challenges")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CHALLENGES_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    challenges: _containers.RepeatedCompositeFieldContainer[Challenge]
    def __init__(self, nonce: _Optional[bytes] = ..., challenges: _Optional[_Iterable[_Union[Challenge, _Mapping]]] = ...) -> None: ...

class AuditAnswer(_message.Message):
    __slots__ = ("proof", "receipt", "gone")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    receipt: bytes
    gone: bool
    def __init__(self, proof: _Optional[bytes] = ..., receipt: _Optional[bytes] = ..., gone: _Optional[bool] = ...) -> None: ...

class AuditReply(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[AuditAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[AuditAnswer, _Mapping]]] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("delivery_id", "receipt")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    receipt: bytes
    def __init__(self, delivery_id: _Optional[bytes] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class FarewellRequest(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: _containers.RepeatedCompositeFieldContainer[Ended]
    def __init__(self, ended: _Optional[_Iterable[_Union[Ended, _Mapping]]] = ...) -> None: ...

class FarewellReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MovedDelivery(_message.Message):
    __slots__ = ("delivery_id", "promise")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    delivery_id: bytes
    promise: bytes
    def __init__(self, delivery_id: _Optional[bytes] = ..., promise: _Optional[bytes] = ...) -> None: ...

class MovedRequest(_message.Message):
    __slots__ = ("moved",)
    MOVED_FIELD_NUMBER: _ClassVar[int]
    moved: _containers.RepeatedCompositeFieldContainer[MovedDelivery]
    def __init__(self, moved: _Optional[_Iterable[_Union[MovedDelivery, _Mapping]]] = ...) -> None: ...

class MovedReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
