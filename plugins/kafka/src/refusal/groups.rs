//! Requests about groups of consumers and transactions.

use kafka_protocol::messages::{
    consumer_group_describe_response, delete_groups_response::DeletableGroupResult,
    delete_share_group_state_response, describe_groups_response,
    describe_share_group_offsets_response::DescribeShareGroupOffsetsResponseGroup,
    describe_transactions_response::TransactionState, find_coordinator_response::Coordinator,
    initialize_share_group_state_response, offset_commit_response::*, offset_fetch_response::*,
    read_share_group_state_response, read_share_group_state_summary_response,
    share_group_describe_response, txn_offset_commit_response::*, write_share_group_state_response,
    *,
};

use super::{Topics, by_item, by_one_code, code::*, each};

by_one_code! {
    JoinGroupRequest: Without, GROUP;
    HeartbeatRequest: Without, GROUP;
    LeaveGroupRequest: Without, GROUP;
    SyncGroupRequest: Without, GROUP;
    ListGroupsRequest: Without, GROUP;
    OffsetDeleteRequest: Unread, GROUP;
    ConsumerGroupHeartbeatRequest: Unread, GROUP;
    ShareGroupHeartbeatRequest: Unread, GROUP;
    AlterShareGroupOffsetsRequest: Unread, GROUP;
    DeleteShareGroupOffsetsRequest: Unread, GROUP;
    InitProducerIdRequest: Without, TRANSACTION;
    AddOffsetsToTxnRequest: Without, TRANSACTION;
    EndTxnRequest: Without, TRANSACTION;
    ListTransactionsRequest: Without, TRANSACTION;
}

by_item! {
    FindCoordinatorRequest,
    |_of| Topics::Without,
    |asked, version| {
        let code = if asked.key_type == 1 { TRANSACTION } else { GROUP };
        let response = FindCoordinatorResponse::default();
        if version < 4 {
            return response
                .with_error_code(code)
                .with_node_id(BrokerId(-1))
                .with_port(-1);
        }
        response.with_coordinators(each(&asked.coordinator_keys, |key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(code)
                .with_error_message(None)
        }))
    },
    |said| [said.error_code]
        .into_iter()
        .chain(said.coordinators.iter().map(|one| one.error_code)),
}

by_item! {
    OffsetCommitRequest,
    |of| Topics::named(of.topics.iter().map(|topic| Some(&topic.name))),
    |asked, _version| OffsetCommitResponse::default().with_topics(each(&asked.topics, |topic| {
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(each(&topic.partitions, |partition| {
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
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
    OffsetFetchRequest,
    |of| {
        let before = of.topics.iter().flatten().map(|topic| Some(&topic.name));
        let groups = of.groups.iter().flat_map(|group| group.topics.iter().flatten());
        Topics::named(before.chain(groups.map(|topic| Some(&topic.name))))
    },
    |asked, version| {
        let response = OffsetFetchResponse::default();
        if version >= 8 {
            return response.with_groups(each(&asked.groups, |group| {
                let topics = each(group.topics.as_deref().unwrap_or_default(), |topic| {
                    OffsetFetchResponseTopics::default()
                        .with_name(topic.name.clone())
                        .with_topic_id(topic.topic_id)
                        .with_partitions(each(&topic.partition_indexes, |partition| {
                            OffsetFetchResponsePartitions::default()
                                .with_partition_index(*partition)
                                .with_committed_offset(-1)
                                .with_metadata(Some(Default::default()))
                                .with_error_code(TOPIC)
                        }))
                });
                OffsetFetchResponseGroup::default()
                    .with_group_id(group.group_id.clone())
                    // Without topics all of the group's are meant.
                    .with_error_code(if topics.is_empty() { GROUP } else { 0 })
                    .with_topics(topics)
            }));
        }
        let topics = each(asked.topics.as_deref().unwrap_or_default(), |topic| {
            OffsetFetchResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(each(&topic.partition_indexes, |partition| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(*partition)
                        .with_committed_offset(-1)
                        .with_metadata(Some(Default::default()))
                        .with_error_code(TOPIC)
                }))
        });
        let all = topics.is_empty() && version >= 2;
        response
            .with_error_code(if all { GROUP } else { 0 })
            .with_topics(topics)
    },
    |said| {
        let before = said.topics.iter().flat_map(|topic| &topic.partitions);
        let groups = said.groups.iter().flat_map(|group| {
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            [group.error_code]
                .into_iter()
                .chain(partitions.map(|partition| partition.error_code))
        });
        [said.error_code]
            .into_iter()
            .chain(before.map(|partition| partition.error_code))
            .chain(groups)
    },
}

by_item! {
    TxnOffsetCommitRequest,
    |_of| Topics::Unread,
    |asked, _version| TxnOffsetCommitResponse::default().with_topics(each(&asked.topics, |topic| {
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(each(&topic.partitions, |partition| {
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
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
    DescribeGroupsRequest,
    |_of| Topics::Without,
    |asked, _version| DescribeGroupsResponse::default().with_groups(each(&asked.groups, |group| {
        describe_groups_response::DescribedGroup::default()
            .with_group_id(group.clone())
            .with_error_code(GROUP)
    })),
    |said| said.groups.iter().map(|group| group.error_code),
}

by_item! {
    ConsumerGroupDescribeRequest,
    |_of| Topics::Without,
    |asked, _version| ConsumerGroupDescribeResponse::default().with_groups(each(&asked.group_ids, |group| {
        consumer_group_describe_response::DescribedGroup::default()
            .with_group_id(group.clone())
            .with_error_code(GROUP)
            .with_error_message(None)
    })),
    |said| said.groups.iter().map(|group| group.error_code),
}

by_item! {
    ShareGroupDescribeRequest,
    |_of| Topics::Without,
    |asked, _version| ShareGroupDescribeResponse::default().with_groups(each(&asked.group_ids, |group| {
        share_group_describe_response::DescribedGroup::default()
            .with_group_id(group.clone())
            .with_error_code(GROUP)
            .with_error_message(None)
    })),
    |said| said.groups.iter().map(|group| group.error_code),
}

by_item! {
    DeleteGroupsRequest,
    |_of| Topics::Without,
    |asked, _version| DeleteGroupsResponse::default().with_results(each(&asked.groups_names, |group| {
        DeletableGroupResult::default()
            .with_group_id(group.clone())
            .with_error_code(GROUP)
    })),
    |said| said.results.iter().map(|group| group.error_code),
}

by_item! {
    DescribeTransactionsRequest,
    |_of| Topics::Without,
    |asked, _version| {
        let states = each(&asked.transactional_ids, |id| {
            TransactionState::default()
                .with_transactional_id(id.clone())
                .with_error_code(TRANSACTION)
        });
        DescribeTransactionsResponse::default().with_transaction_states(states)
    },
    |said| said.transaction_states.iter().map(|one| one.error_code),
}

by_item! {
    DescribeShareGroupOffsetsRequest,
    |_of| Topics::Unread,
    |asked, _version| DescribeShareGroupOffsetsResponse::default().with_groups(each(&asked.groups, |group| {
        DescribeShareGroupOffsetsResponseGroup::default()
            .with_group_id(group.group_id.clone())
            .with_error_code(GROUP)
            .with_error_message(None)
    })),
    |said| said.groups.iter().map(|group| group.error_code),
}

/// The state of share groups, which brokers keep with each other: a code for each
/// partition of each topic.
macro_rules! share_state {
    ($($request:ident, $response:ident, $module:ident::$result:ident;)*) => {$(
        by_item! {
            $request,
            |_of| Topics::Unread,
            |asked, _version| $response::default().with_results(each(&asked.topics, |topic| {
                $module::$result::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(each(&topic.partitions, |partition| {
                        $module::PartitionResult::default()
                            .with_partition(partition.partition)
                            .with_error_code(CLUSTER)
                            .with_error_message(None)
                    }))
            })),
            |said| said
                .results
                .iter()
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code),
        }
    )*};
}

share_state! {
    InitializeShareGroupStateRequest, InitializeShareGroupStateResponse, initialize_share_group_state_response::InitializeStateResult;
    ReadShareGroupStateRequest, ReadShareGroupStateResponse, read_share_group_state_response::ReadStateResult;
    WriteShareGroupStateRequest, WriteShareGroupStateResponse, write_share_group_state_response::WriteStateResult;
    DeleteShareGroupStateRequest, DeleteShareGroupStateResponse, delete_share_group_state_response::DeleteStateResult;
    ReadShareGroupStateSummaryRequest, ReadShareGroupStateSummaryResponse, read_share_group_state_summary_response::ReadStateSummaryResult;
}
