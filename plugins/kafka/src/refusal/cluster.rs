//! Requests about the cluster, its brokers, users and settings, and about the
//! connection itself.

use kafka_protocol::messages::{
    alter_client_quotas_response, alter_configs_response,
    alter_replica_log_dirs_response::{
        AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
    },
    alter_user_scram_credentials_response::AlterUserScramCredentialsResult,
    create_acls_response::AclCreationResult,
    delete_acls_response::DeleteAclsFilterResult,
    describe_configs_response::DescribeConfigsResult,
    describe_log_dirs_response::DescribeLogDirsResult,
    incremental_alter_configs_response, *,
};

use super::{Topics, by_item, by_one_code, code::*, each};

by_one_code! {
    ApiVersionsRequest: Without, CLUSTER;
    SaslHandshakeRequest: Without, MECHANISM;
    SaslAuthenticateRequest: Without, LOGIN;
    DescribeAclsRequest: Without, CLUSTER;
    CreateDelegationTokenRequest: Without, TOKEN;
    RenewDelegationTokenRequest: Without, TOKEN;
    ExpireDelegationTokenRequest: Without, TOKEN;
    DescribeDelegationTokenRequest: Without, TOKEN;
    DescribeClientQuotasRequest: Without, CLUSTER;
    DescribeUserScramCredentialsRequest: Without, CLUSTER;
    UpdateFeaturesRequest: Without, CLUSTER;
    // It carries a request of its own.
    EnvelopeRequest: Unread, CLUSTER;
    DescribeClusterRequest: Without, CLUSTER;
    BrokerRegistrationRequest: Without, CLUSTER;
    BrokerHeartbeatRequest: Without, CLUSTER;
    UnregisterBrokerRequest: Without, CLUSTER;
    AllocateProducerIdsRequest: Without, CLUSTER;
    ControllerRegistrationRequest: Without, CLUSTER;
    GetTelemetrySubscriptionsRequest: Without, CLUSTER;
    PushTelemetryRequest: Without, CLUSTER;
    ListConfigResourcesRequest: Without, CLUSTER;
    AddRaftVoterRequest: Without, CLUSTER;
    RemoveRaftVoterRequest: Without, CLUSTER;
    UpdateRaftVoterRequest: Without, CLUSTER;
}

by_item! {
    CreateAclsRequest,
    |_of| Topics::Without,
    |asked, _version| CreateAclsResponse::default().with_results(each(&asked.creations, |_| {
        AclCreationResult::default()
            .with_error_code(CLUSTER)
            .with_error_message(None)
    })),
    |said| said.results.iter().map(|one| one.error_code),
}

by_item! {
    DeleteAclsRequest,
    |_of| Topics::Without,
    |asked, _version| DeleteAclsResponse::default().with_filter_results(each(&asked.filters, |_| {
        DeleteAclsFilterResult::default()
            .with_error_code(CLUSTER)
            .with_error_message(None)
    })),
    |said| said.filter_results.iter().map(|one| one.error_code),
}

by_item! {
    DescribeConfigsRequest,
    |_of| Topics::Without,
    |asked, _version| DescribeConfigsResponse::default().with_results(each(&asked.resources, |resource| {
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(CLUSTER)
            .with_error_message(None)
    })),
    |said| said.results.iter().map(|one| one.error_code),
}

by_item! {
    AlterConfigsRequest,
    |_of| Topics::Without,
    |asked, _version| AlterConfigsResponse::default().with_responses(each(&asked.resources, |resource| {
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(CLUSTER)
            .with_error_message(None)
    })),
    |said| said.responses.iter().map(|one| one.error_code),
}

by_item! {
    IncrementalAlterConfigsRequest,
    |_of| Topics::Unread,
    |asked, _version| IncrementalAlterConfigsResponse::default().with_responses(each(&asked.resources, |resource| {
        incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(CLUSTER)
            .with_error_message(None)
    })),
    |said| said.responses.iter().map(|one| one.error_code),
}

by_item! {
    AlterReplicaLogDirsRequest,
    |_of| Topics::Unread,
    |asked, _version| {
        let topics = asked.dirs.iter().flat_map(|dir| &dir.topics);
        let refused = topics.map(|topic| {
            AlterReplicaLogDirTopicResult::default()
                .with_topic_name(topic.name.clone())
                .with_partitions(each(&topic.partitions, |partition| {
                    AlterReplicaLogDirPartitionResult::default()
                        .with_partition_index(*partition)
                        .with_error_code(CLUSTER)
                }))
        });
        AlterReplicaLogDirsResponse::default().with_results(refused.collect())
    },
    |said| said
        .results
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.error_code),
}

by_item! {
    DescribeLogDirsRequest,
    |_of| Topics::Unread,
    |_asked, version| {
        let response = DescribeLogDirsResponse::default();
        if version >= 3 {
            return response.with_error_code(CLUSTER);
        }
        // No other place has a code.
        response.with_results(vec![DescribeLogDirsResult::default().with_error_code(CLUSTER)])
    },
    |said| [said.error_code]
        .into_iter()
        .chain(said.results.iter().map(|one| one.error_code)),
}

by_item! {
    AlterClientQuotasRequest,
    |_of| Topics::Without,
    |asked, _version| AlterClientQuotasResponse::default().with_entries(each(&asked.entries, |entry| {
        alter_client_quotas_response::EntryData::default()
            .with_error_code(CLUSTER)
            .with_error_message(None)
            .with_entity(each(&entry.entity, |entity| {
                alter_client_quotas_response::EntityData::default()
                    .with_entity_type(entity.entity_type.clone())
                    .with_entity_name(entity.entity_name.clone())
            }))
    })),
    |said| said.entries.iter().map(|one| one.error_code),
}

by_item! {
    AlterUserScramCredentialsRequest,
    |_of| Topics::Without,
    |asked, _version| {
        let deleted = asked.deletions.iter().map(|one| &one.name);
        let mut users: Vec<_> = deleted.chain(asked.upsertions.iter().map(|one| &one.name)).collect();
        users.sort_unstable();
        users.dedup();
        AlterUserScramCredentialsResponse::default().with_results(each(&users, |user| {
            AlterUserScramCredentialsResult::default()
                .with_user((*user).clone())
                .with_error_code(CLUSTER)
                .with_error_message(None)
        }))
    },
    |said| said.results.iter().map(|one| one.error_code),
}
