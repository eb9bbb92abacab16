//! From the number of an API to its messages.

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, *},
    protocol::{Decodable, Encodable, HeaderVersion, Message, VersionRange},
};

use crate::{
    careful::decode,
    refusal::{Api, Topics},
};

/// Calls `$function::<Request>(…)` for the request of an API.
macro_rules! of_kind {
    ($key:expr, $function:ident $arguments:tt) => {
        of_kind!(@ $key, $function, $arguments,
            Produce: ProduceRequest,
            Fetch: FetchRequest,
            ListOffsets: ListOffsetsRequest,
            Metadata: MetadataRequest,
            OffsetCommit: OffsetCommitRequest,
            OffsetFetch: OffsetFetchRequest,
            FindCoordinator: FindCoordinatorRequest,
            JoinGroup: JoinGroupRequest,
            Heartbeat: HeartbeatRequest,
            LeaveGroup: LeaveGroupRequest,
            SyncGroup: SyncGroupRequest,
            DescribeGroups: DescribeGroupsRequest,
            ListGroups: ListGroupsRequest,
            SaslHandshake: SaslHandshakeRequest,
            ApiVersions: ApiVersionsRequest,
            CreateTopics: CreateTopicsRequest,
            DeleteTopics: DeleteTopicsRequest,
            DeleteRecords: DeleteRecordsRequest,
            InitProducerId: InitProducerIdRequest,
            OffsetForLeaderEpoch: OffsetForLeaderEpochRequest,
            AddPartitionsToTxn: AddPartitionsToTxnRequest,
            AddOffsetsToTxn: AddOffsetsToTxnRequest,
            EndTxn: EndTxnRequest,
            WriteTxnMarkers: WriteTxnMarkersRequest,
            TxnOffsetCommit: TxnOffsetCommitRequest,
            DescribeAcls: DescribeAclsRequest,
            CreateAcls: CreateAclsRequest,
            DeleteAcls: DeleteAclsRequest,
            DescribeConfigs: DescribeConfigsRequest,
            AlterConfigs: AlterConfigsRequest,
            AlterReplicaLogDirs: AlterReplicaLogDirsRequest,
            DescribeLogDirs: DescribeLogDirsRequest,
            SaslAuthenticate: SaslAuthenticateRequest,
            CreatePartitions: CreatePartitionsRequest,
            CreateDelegationToken: CreateDelegationTokenRequest,
            RenewDelegationToken: RenewDelegationTokenRequest,
            ExpireDelegationToken: ExpireDelegationTokenRequest,
            DescribeDelegationToken: DescribeDelegationTokenRequest,
            DeleteGroups: DeleteGroupsRequest,
            ElectLeaders: ElectLeadersRequest,
            IncrementalAlterConfigs: IncrementalAlterConfigsRequest,
            AlterPartitionReassignments: AlterPartitionReassignmentsRequest,
            ListPartitionReassignments: ListPartitionReassignmentsRequest,
            OffsetDelete: OffsetDeleteRequest,
            DescribeClientQuotas: DescribeClientQuotasRequest,
            AlterClientQuotas: AlterClientQuotasRequest,
            DescribeUserScramCredentials: DescribeUserScramCredentialsRequest,
            AlterUserScramCredentials: AlterUserScramCredentialsRequest,
            Vote: VoteRequest,
            BeginQuorumEpoch: BeginQuorumEpochRequest,
            EndQuorumEpoch: EndQuorumEpochRequest,
            DescribeQuorum: DescribeQuorumRequest,
            AlterPartition: AlterPartitionRequest,
            UpdateFeatures: UpdateFeaturesRequest,
            Envelope: EnvelopeRequest,
            FetchSnapshot: FetchSnapshotRequest,
            DescribeCluster: DescribeClusterRequest,
            DescribeProducers: DescribeProducersRequest,
            BrokerRegistration: BrokerRegistrationRequest,
            BrokerHeartbeat: BrokerHeartbeatRequest,
            UnregisterBroker: UnregisterBrokerRequest,
            DescribeTransactions: DescribeTransactionsRequest,
            ListTransactions: ListTransactionsRequest,
            AllocateProducerIds: AllocateProducerIdsRequest,
            ConsumerGroupHeartbeat: ConsumerGroupHeartbeatRequest,
            ConsumerGroupDescribe: ConsumerGroupDescribeRequest,
            ControllerRegistration: ControllerRegistrationRequest,
            GetTelemetrySubscriptions: GetTelemetrySubscriptionsRequest,
            PushTelemetry: PushTelemetryRequest,
            AssignReplicasToDirs: AssignReplicasToDirsRequest,
            ListConfigResources: ListConfigResourcesRequest,
            DescribeTopicPartitions: DescribeTopicPartitionsRequest,
            ShareGroupHeartbeat: ShareGroupHeartbeatRequest,
            ShareGroupDescribe: ShareGroupDescribeRequest,
            ShareFetch: ShareFetchRequest,
            ShareAcknowledge: ShareAcknowledgeRequest,
            AddRaftVoter: AddRaftVoterRequest,
            RemoveRaftVoter: RemoveRaftVoterRequest,
            UpdateRaftVoter: UpdateRaftVoterRequest,
            InitializeShareGroupState: InitializeShareGroupStateRequest,
            ReadShareGroupState: ReadShareGroupStateRequest,
            WriteShareGroupState: WriteShareGroupStateRequest,
            DeleteShareGroupState: DeleteShareGroupStateRequest,
            ReadShareGroupStateSummary: ReadShareGroupStateSummaryRequest,
            DescribeShareGroupOffsets: DescribeShareGroupOffsetsRequest,
            AlterShareGroupOffsets: AlterShareGroupOffsetsRequest,
            DeleteShareGroupOffsets: DeleteShareGroupOffsetsRequest,
        )
    };
    (@ $key:expr, $function:ident, $arguments:tt, $($name:ident: $request:ident,)*) => {
        match $key {
            $(ApiKey::$name => of_kind!(@call $function, $request, $arguments),)*
        }
    };
    (@call choose_of, $request:ident, ($choice:expr)) => {
        $choice.choose::<$request>()
    };
    (@call $function:ident, $request:ident, ($($argument:expr),*)) => {
        $function::<$request>($($argument),*)
    };
}

/// Something that can be had of every kind.
#[cfg(test)]
pub(crate) trait Choice {
    type Of;

    fn choose<A: Api>(self) -> Self::Of;
}

/// What is chosen of the kind of this API.
#[cfg(test)]
pub(crate) fn of<C: Choice>(key: ApiKey, choice: C) -> C::Of {
    of_kind!(key, choose_of(choice))
}

/// Versions of an API of which both request and response are known here.
pub(crate) fn versions(key: ApiKey) -> VersionRange {
    fn of<A: Api>() -> VersionRange {
        A::VERSIONS.intersect(&<A::Response as Message>::VERSIONS)
    }
    of_kind!(key, of())
}

/// The API of this number, if this version of it is known here.
pub(crate) fn known(key: i16, version: i16) -> Option<ApiKey> {
    let key = ApiKey::try_from(key).ok()?;
    let range = versions(key);
    (range.min..=range.max).contains(&version).then_some(key)
}

/// What a request says that rules ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) topics: Topics,
    /// It is about a transaction of a name of its own.
    pub(crate) transactional: bool,
}

/// Reads a request's body.
///
/// # Errors
///
/// If it is none.
pub(crate) fn body(key: ApiKey, version: i16, bytes: &Bytes) -> Result<Body> {
    fn topics<A: Api>(bytes: &Bytes, version: i16) -> Result<Topics> {
        Ok(decode::<A>(bytes, version)?.topics())
    }
    let transactional = match key {
        ApiKey::InitProducerId => {
            let request = decode::<InitProducerIdRequest>(bytes, version)?;
            request.transactional_id.is_some()
        }
        _ => false,
    };
    Ok(Body {
        topics: of_kind!(key, topics(bytes, version))?,
        transactional,
    })
}

/// The response that refuses a request, as a frame, and the error it tells.
///
/// # Errors
///
/// If the request cannot be read.
pub(crate) fn refusal(
    key: ApiKey,
    version: i16,
    correlation: i32,
    bytes: &Bytes,
) -> Result<(Vec<u8>, i16)> {
    fn make<A: Api>(bytes: &Bytes, version: i16, correlation: i32) -> Result<(Vec<u8>, i16)> {
        let refused = decode::<A>(bytes, version)?.refused(version);
        let frame = response(correlation, &refused, version)?;
        Ok((frame, A::error(&refused)))
    }
    of_kind!(key, make(bytes, version, correlation))
}

/// The error a response tells, 0 for none; `bytes` are those behind its length.
///
/// # Errors
///
/// If it cannot be read.
pub(crate) fn error(key: ApiKey, version: i16, bytes: Bytes) -> Result<i16> {
    fn of<A: Api>(bytes: Bytes, version: i16) -> Result<i16> {
        Ok(A::error(&read_response::<A::Response>(bytes, version)?))
    }
    of_kind!(key, of(bytes, version))
}

/// Reads a response; `bytes` are those behind its length.
///
/// # Errors
///
/// If it is no such response.
pub(crate) fn read_response<R: HeaderVersion + Decodable>(
    mut bytes: Bytes,
    version: i16,
) -> Result<R> {
    ResponseHeader::decode(&mut bytes, R::header_version(version))?;
    decode(&bytes, version)
}

/// A response as a frame.
///
/// # Errors
///
/// If it says what this version has no place for.
pub(crate) fn response<R: HeaderVersion + Encodable>(
    correlation: i32,
    response: &R,
    version: i16,
) -> Result<Vec<u8>> {
    let header = ResponseHeader::default().with_correlation_id(correlation);
    frame((&header, R::header_version(version)), (response, version))
}

/// A request as a frame.
///
/// # Errors
///
/// As [`response`].
pub(crate) fn request<R: HeaderVersion + Encodable>(
    header: &RequestHeader,
    request: &R,
) -> Result<Vec<u8>> {
    let version = header.request_api_version;
    frame((header, R::header_version(version)), (request, version))
}

fn frame(
    (header, header_version): (&impl Encodable, i16),
    (message, version): (&impl Encodable, i16),
) -> Result<Vec<u8>> {
    let mut bytes = BytesMut::from(&[0; 4][..]);
    header.encode(&mut bytes, header_version)?;
    message.encode(&mut bytes, version)?;
    let length = i32::try_from(bytes.len() - 4).context("too long")?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.into())
}

/// Name of an API and version, for records.
pub(crate) fn name(key: i16, version: i16) -> String {
    match ApiKey::try_from(key) {
        Ok(key) => format!("{key:?} v{version}"),
        Err(()) => format!("API {key} v{version}"),
    }
}

/// Name of an error as Apache Kafka writes it; empty for none.
pub(crate) fn error_name(code: i16) -> String {
    let error = match ResponseError::try_from_code(code) {
        None => return String::new(),
        Some(ResponseError::Unknown(code)) => return format!("error {code}"),
        Some(error) => error.to_string(),
    };
    let mut name = String::new();
    for letter in error.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
