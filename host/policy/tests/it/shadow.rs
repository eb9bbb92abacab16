//! Documents in shadow: nothing is decided by them, and what they would decide stands
//! beside every decision. That this holds for all documents is in [`crate::property`].

use tidegate_policy::{
    Enforcement, Ids, Input, compile,
    compiled::{Decision, FqdnSelector, Rehearsed, Verdict},
    lint, parse_file,
};

use crate::check::{Question, compiled, endpoint, in_words, read};

/// A policy for `a/web`, in shadow or not.
fn policy(name: &str, enforcement: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\n  \
         namespace: a\n  annotations: {{tidegate.io/enforcement: {enforcement}, other: 1}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: web}}}}, {spec}}}\n"
    )
}

fn input(documents: &[String]) -> Input {
    let mut input = Input::default();
    let endpoints = endpoint("a/web", "10.0.1.1", "app: web")
        + &endpoint("a/client", "10.0.1.2", "app: client");
    read(&mut input, "e.yaml", &endpoints);
    read(&mut input, "p.yaml", &documents.concat());
    input
}

/// The verdict in force with its rule, and the rehearsed one where it is another.
fn check(documents: &[String], questions: &[(&str, &str, &str)]) {
    let input = input(documents);
    let compiled = compiled(&input);
    let say = |decision: Decision| {
        let answer = in_words(&compiled, decision);
        let rule = answer.rule.unwrap_or_default();
        format!("{:?} {rule}", answer.verdict).trim().to_owned()
    };
    for (text, enforced, rehearsed) in questions {
        let decision = Question::parse(&input, text).ask_tables(&compiled);
        assert_eq!(say(decision), *enforced, "{text}");
        let shadow = decision.shadow.map(|Rehearsed { verdict, rule, l7 }| {
            say(Decision {
                verdict,
                rule,
                l7,
                shadow: None,
            })
        });
        assert_eq!(shadow.unwrap_or_default(), *rehearsed, "{text}");
    }
}

const DENY: &str = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]";
const HTTP: &str = "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], \
                    rules: {http: [{method: GET}]}}]}]";

#[test]
fn both_verdicts_stand_beside_each_other() {
    // Where nothing is enforced, a policy in shadow switches nothing on.
    check(
        &[policy("p", "shadow", "ingress: [{fromEntities: [world]}]")],
        &[
            ("a/web < a/client tcp/80", "Allow", "DefaultDeny a/p"),
            ("a/web < 192.0.2.1 tcp/80", "Allow", ""),
            ("a/web > a/client tcp/80", "Allow", ""),
        ],
    );
    // Neither a denial nor a permission in shadow has any effect.
    check(
        &[
            policy("allow", "enforce", "ingress: [{fromEndpoints: [{}]}]"),
            policy("deny", "shadow", DENY),
            policy("open", "shadow", "ingress: [{fromEntities: [all]}]"),
        ],
        &[
            (
                "a/web < a/client tcp/80",
                "Allow a/allow ingress[0]",
                "Deny a/deny ingressDeny[0]",
            ),
            (
                "a/web < 192.0.2.1 tcp/80",
                "DefaultDeny a/allow",
                "Allow a/open ingress[0]",
            ),
        ],
    );
    // Nor does a rule that would have traffic read.
    check(
        &[policy("read", "shadow", HTTP)],
        &[(
            "a/web < a/client tcp/80",
            "Allow",
            "Redirect a/read ingress[0].toPorts[0]",
        )],
    );
    // Without the annotation, or with the word for it, the same is enforced.
    check(
        &[policy("deny", "enforce", DENY)],
        &[("a/web < a/client tcp/80", "Deny a/deny ingressDeny[0]", "")],
    );
}

/// One rule set leads to what is rehearsed of the same traffic, and has the number it
/// always had where nothing is.
#[test]
fn a_rule_set_leads_to_the_one_beside_it() {
    let strict = HTTP.replace("GET", "POST");
    let enforced = [policy("a", "enforce", HTTP)];
    let mut ids = Ids::default();
    let alone = compile(&input(&enforced), &mut ids).unwrap();
    let documents = [policy("a", "enforce", HTTP), policy("b", "shadow", &strict)];
    let mixed = compile(&input(&documents), &mut ids).unwrap();
    let question = Question::parse(&input(&documents), "a/web < a/client tcp/80");
    let own = &mixed.l7[&question.ask_tables(&mixed).l7];
    let before = question.ask_tables(&alone).l7;
    assert_eq!(own.chain, alone.l7[&before].chain, "what is enforced");
    let beside = own.shadow.expect("something is rehearsed");
    assert_eq!(beside.verdict, Verdict::Redirect);
    let rules = &mixed.l7[&beside.l7].chain[0];
    assert!(rules.config.contains("GET") && rules.config.contains("POST"));
    assert_eq!(mixed.l7[&beside.l7].shadow, None);
    let again = compile(&input(&enforced), &mut ids).unwrap();
    assert_eq!(question.ask_tables(&again).l7, before);
}

/// Where documents cannot be enforced together, the one in shadow is at fault: no other
/// may be refused for a rehearsal.
#[test]
fn a_rehearsal_never_costs_another_document() {
    let dns = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], \
               rules: {dns: [{matchPattern: '*'}]}}]}]";
    let http = HTTP.replace("ingress", "egress");
    let binding = |enforcement: &str| {
        format!(
            "---\napiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\nmetadata: {{name: z, \
             namespace: a, annotations: {{tidegate.io/enforcement: {enforcement}}}}}\nspec: \
             {{endpointSelector: {{}}, direction: egress, toPorts: [80], plugin: guard}}\n"
        )
    };
    for (documents, at_fault, field) in [
        // The one in shadow comes first, by name.
        (
            [policy("a", "shadow", dns), policy("b", "enforce", &http)],
            "CiliumNetworkPolicy a/a",
            "spec.egress[0].toPorts[0]",
        ),
        (
            [policy("b", "enforce", dns), policy("c", "shadow", &http)],
            "CiliumNetworkPolicy a/c",
            "spec.egress[0].toPorts[0]",
        ),
        (
            [policy("a", "shadow", dns), binding("enforce")],
            "CiliumNetworkPolicy a/a",
            "spec.egress[0].toPorts[0]",
        ),
        (
            [policy("a", "enforce", dns), binding("shadow")],
            "PluginBinding a/z",
            "spec.protocol",
        ),
    ] {
        let problems = compile(&input(&documents), &mut Ids::default()).unwrap_err();
        for problem in problems {
            let document = problem.document.as_ref().map(ToString::to_string);
            let named = (document.as_deref(), problem.field.as_str());
            assert_eq!(named, (Some(at_fault), field), "{problem}");
        }
    }
}

#[test]
fn an_annotation_nobody_knows_is_refused() {
    let at = "p.yaml:7:17: metadata.annotations.tidegate.io/";
    for (annotation, expected) in [
        (
            "tidegate.io/enforcement: shadwo",
            "enforcement: no such value (shadwo); did you mean `shadow`? one of: enforce, shadow",
        ),
        (
            "tidegate.io/enforcment: shadow",
            "enforcment: no such annotation (shadow); known here: tidegate.io/enforcement, tidegate.io/hold-names",
        ),
    ] {
        let text =
            policy("p", "shadow", DENY).replace("tidegate.io/enforcement: shadow", annotation);
        let problems = parse_file("p.yaml", &text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = problems[0].to_string();
        let at = at.split(':').next().unwrap();
        assert!(said.starts_with(at) && said.ends_with(expected), "{said}");
    }
    let endpoint = endpoint("a/web", "10.0.1.1", "app: web").replace(
        "labels: {",
        "annotations: {tidegate.io/enforcement: shadow}, labels: {",
    );
    let said = parse_file("p.yaml", &endpoint).unwrap_err()[0].to_string();
    assert!(said.contains("Endpoint cannot be rehearsed"), "{said}");

    let read = parse_file("p.yaml", &policy("p", "shadow", DENY)).unwrap();
    assert_eq!(read[0].meta().enforcement, Enforcement::Shadow);
}

/// What is in shadow steers nothing, so no name is learned by it.
#[test]
fn a_dns_rule_in_shadow_teaches_no_names() {
    let dns = "egress: [{toPorts: [{ports: [{port: '53', protocol: UDP}], \
               rules: {dns: [{matchPattern: '*'}]}}]}]";
    let names = "egress: [{toFQDNs: [{matchName: a.example}]}]";
    let said = |enforcement: &str| -> Vec<String> {
        let input = input(&[
            policy("dns", enforcement, dns),
            policy("names", "enforce", names),
        ]);
        lint(&input).iter().map(ToString::to_string).collect()
    };
    assert_eq!(said("enforce"), Vec::<String>::new());
    let said = said("shadow");
    assert!(
        said.len() == 1 && said[0].contains("toFQDNs of a/web stays without addresses"),
        "{said:?}"
    );
}

/// Which names are learned for rehearsals alone: a selector that one enforced document has
/// too is not among them.
#[test]
fn names_that_only_shadow_asks_for_are_told_apart() {
    let names = |selectors: &str| format!("egress: [{{toFQDNs: [{selectors}]}}]");
    let documents = [
        policy(
            "a",
            "shadow",
            &names("{matchName: a.example}, {matchName: b.example}"),
        ),
        policy(
            "b",
            "enforce",
            &names("{matchName: b.example}, {matchPattern: a.example}"),
        ),
    ];
    let compiled = compiled(&input(&documents));
    let alone: Vec<_> = compiled
        .fqdn_in_shadow
        .iter()
        .map(|id| &compiled.fqdn[id])
        .collect();
    assert_eq!(alone, [&FqdnSelector::MatchName("a.example.".to_owned())]);
    assert_eq!(compiled.fqdn.len(), 3);
}
