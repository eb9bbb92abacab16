//! Requests about topics and their partitions.

use bytes::Bytes;
use kafka_protocol::messages::{
    add_partitions_to_txn_response::{
        AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
    },
    create_partitions_response::CreatePartitionsTopicResult,
    create_topics_response::CreatableTopicResult,
    delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    delete_topics_response::DeletableTopicResult,
    describe_producers_response, describe_topic_partitions_response,
    elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    fetch_response::{FetchableTopicResponse, PartitionData},
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    metadata_response::MetadataResponseTopic,
    offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    produce_response::{PartitionProduceResponse, TopicProduceResponse},
    write_txn_markers_response::{
        WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    },
    *,
};

use super::{Topics, by_item, by_one_code, code::*, each};

by_item! {
    ProduceRequest,
    |of| Topics::named(of.topic_data.iter().map(|topic| Some(&topic.name))),
    |asked, _version| ProduceResponse::default().with_responses(each(&asked.topic_data, |topic| {
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partition_responses(each(&topic.partition_data, |partition| {
                PartitionProduceResponse::default()
                    .with_index(partition.index)
                    .with_error_code(TOPIC)
                    .with_base_offset(-1)
            }))
    })),
    |said| said
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses)
        .map(|partition| partition.error_code),
}

by_item! {
    FetchRequest,
    // What a session fetches is in the broker's memory (KIP-227), not in the request.
    |of| match is_full(of) {
        true => Topics::named(of.topics.iter().map(|topic| Some(&topic.topic))),
        false => Topics::Unread,
    },
    |asked, _version| match is_full(asked) {
        true => FetchResponse::default(),
        // The client begins anew, with all it wants to fetch.
        false => FetchResponse::default().with_error_code(SESSION),
    }.with_responses(each(&asked.topics, |topic| {
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(each(&topic.partitions, |partition| {
                PartitionData::default()
                    .with_partition_index(partition.partition)
                    .with_error_code(TOPIC)
                    .with_high_watermark(-1)
                    .with_last_stable_offset(-1)
                    .with_records(Some(Bytes::new()))
            }))
    })),
    |said| [said.error_code].into_iter().chain(
        said.responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| partition.error_code),
    ),
}

by_item! {
    ListOffsetsRequest,
    |of| Topics::named(of.topics.iter().map(|topic| Some(&topic.name))),
    |asked, _version| ListOffsetsResponse::default().with_topics(each(&asked.topics, |topic| {
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(each(&topic.partitions, |partition| {
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(TOPIC)
                    .with_timestamp(-1)
                    .with_offset(-1)
            }))
    })),
    |said| said
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

by_item! {
    MetadataRequest,
    // Brokers go by ids where there are any, whatever the names beside them.
    |of| Topics::named(of.topics.iter().flatten().map(|topic| {
        topic.name.as_ref().filter(|_| topic.topic_id.is_nil())
    })),
    |asked, version| {
        let topics = asked.topics.as_deref().unwrap_or_default();
        let response = MetadataResponse::default().with_topics(each(topics, refused_topic));
        // Only this version has a place for it.
        response.with_error_code(if version >= 13 { CLUSTER } else { 0 })
    },
    |said| [said.error_code]
        .into_iter()
        .chain(said.topics.iter().map(|topic| topic.error_code)),
}

/// Does a `Fetch` name all it wants, rather than what became different in its session?
fn is_full(of: &FetchRequest) -> bool {
    of.session_id == 0 || matches!(of.session_epoch, 0 | -1)
}

/// What a response says of a topic that was refused.
pub(crate) fn refused_topic(
    topic: &metadata_request::MetadataRequestTopic,
) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(TOPIC)
        .with_name(topic.name.clone())
        .with_topic_id(topic.topic_id)
}

by_item! {
    CreateTopicsRequest,
    |_of| Topics::Unread,
    |asked, _version| CreateTopicsResponse::default().with_topics(each(&asked.topics, |topic| {
        CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(TOPIC)
            .with_error_message(None)
    })),
    |said| said.topics.iter().map(|topic| topic.error_code),
}

by_item! {
    DeleteTopicsRequest,
    |_of| Topics::Unread,
    |asked, _version| {
        let refused = |name, id| {
            DeletableTopicResult::default()
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(TOPIC)
                .with_error_message(None)
        };
        let named = asked.topic_names.iter().map(|name| refused(Some(name.clone()), Default::default()));
        let stated = asked.topics.iter().map(|topic| refused(topic.name.clone(), topic.topic_id));
        DeleteTopicsResponse::default().with_responses(named.chain(stated).collect())
    },
    |said| said.responses.iter().map(|topic| topic.error_code),
}

by_item! {
    CreatePartitionsRequest,
    |_of| Topics::Unread,
    |asked, _version| CreatePartitionsResponse::default().with_results(each(&asked.topics, |topic| {
        CreatePartitionsTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(TOPIC)
            .with_error_message(None)
    })),
    |said| said.results.iter().map(|topic| topic.error_code),
}

by_item! {
    DeleteRecordsRequest,
    |_of| Topics::Unread,
    |asked, _version| DeleteRecordsResponse::default().with_topics(each(&asked.topics, |topic| {
        DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(each(&topic.partitions, |partition| {
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(partition.partition_index)
                    .with_low_watermark(-1)
                    .with_error_code(TOPIC)
            }))
    })),
    |said| said
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

by_item! {
    OffsetForLeaderEpochRequest,
    |_of| Topics::Unread,
    |asked, _version| OffsetForLeaderEpochResponse::default().with_topics(each(&asked.topics, |topic| {
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(each(&topic.partitions, |partition| {
                EpochEndOffset::default()
                    .with_partition(partition.partition)
                    .with_error_code(TOPIC)
            }))
    })),
    |said| said
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

fn refused_in_transaction(
    topics: &[add_partitions_to_txn_request::AddPartitionsToTxnTopic],
) -> Vec<AddPartitionsToTxnTopicResult> {
    each(topics, |topic| {
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(each(&topic.partitions, |partition| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*partition)
                    .with_partition_error_code(TOPIC)
            }))
    })
}

by_item! {
    AddPartitionsToTxnRequest,
    |_of| Topics::Unread,
    |asked, version| {
        let response = AddPartitionsToTxnResponse::default();
        if version < 4 {
            let refused = refused_in_transaction(&asked.v3_and_below_topics);
            response.with_results_by_topic_v3_and_below(refused)
        } else {
            response.with_results_by_transaction(each(&asked.transactions, |transaction| {
                AddPartitionsToTxnResult::default()
                    .with_transactional_id(transaction.transactional_id.clone())
                    .with_topic_results(refused_in_transaction(&transaction.topics))
            }))
        }
    },
    |said| {
        let transactions = said.results_by_transaction.iter();
        let topics = transactions
            .flat_map(|transaction| &transaction.topic_results)
            .chain(&said.results_by_topic_v3_and_below);
        let codes = topics
            .flat_map(|topic| &topic.results_by_partition)
            .map(|partition| partition.partition_error_code);
        [said.error_code].into_iter().chain(codes)
    },
}

by_item! {
    WriteTxnMarkersRequest,
    |_of| Topics::Unread,
    |asked, _version| WriteTxnMarkersResponse::default().with_markers(each(&asked.markers, |marker| {
        WritableTxnMarkerResult::default()
            .with_producer_id(marker.producer_id)
            .with_topics(each(&marker.topics, |topic| {
                WritableTxnMarkerTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(each(&topic.partition_indexes, |partition| {
                        WritableTxnMarkerPartitionResult::default()
                            .with_partition_index(*partition)
                            .with_error_code(CLUSTER)
                    }))
            }))
    })),
    |said| said
        .markers
        .iter()
        .flat_map(|marker| &marker.topics)
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

by_item! {
    ElectLeadersRequest,
    |_of| Topics::Unread,
    |asked, version| {
        let topics = asked.topic_partitions.as_deref().unwrap_or_default();
        let results = each(topics, |topic| {
            ReplicaElectionResult::default()
                .with_topic(topic.topic.clone())
                .with_partition_result(each(&topic.partitions, |partition| {
                    PartitionResult::default()
                        .with_partition_id(*partition)
                        .with_error_code(CLUSTER)
                        .with_error_message(None)
                }))
        });
        let code = if version >= 1 { CLUSTER } else { 0 };
        ElectLeadersResponse::default()
            .with_error_code(code)
            .with_replica_election_results(results)
    },
    |said| [said.error_code].into_iter().chain(
        said.replica_election_results
            .iter()
            .flat_map(|topic| &topic.partition_result)
            .map(|partition| partition.error_code),
    ),
}

by_item! {
    DescribeProducersRequest,
    |_of| Topics::Unread,
    |asked, _version| DescribeProducersResponse::default().with_topics(each(&asked.topics, |topic| {
        describe_producers_response::TopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(each(&topic.partition_indexes, |partition| {
                describe_producers_response::PartitionResponse::default()
                    .with_partition_index(*partition)
                    .with_error_code(TOPIC)
                    .with_error_message(None)
            }))
    })),
    |said| said
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

by_item! {
    DescribeTopicPartitionsRequest,
    |_of| Topics::Unread,
    |asked, _version| DescribeTopicPartitionsResponse::default().with_topics(each(&asked.topics, |topic| {
        describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic.name.clone()))
            .with_error_code(TOPIC)
    })),
    |said| said.topics.iter().map(|topic| topic.error_code),
}

by_one_code! {
    AlterPartitionReassignmentsRequest: Unread, CLUSTER;
    ListPartitionReassignmentsRequest: Unread, CLUSTER;
    AlterPartitionRequest: Unread, CLUSTER;
    VoteRequest: Unread, CLUSTER;
    BeginQuorumEpochRequest: Unread, CLUSTER;
    EndQuorumEpochRequest: Unread, CLUSTER;
    DescribeQuorumRequest: Unread, CLUSTER;
    FetchSnapshotRequest: Unread, CLUSTER;
    AssignReplicasToDirsRequest: Unread, CLUSTER;
    ShareFetchRequest: Unread, GROUP;
    ShareAcknowledgeRequest: Unread, GROUP;
}
