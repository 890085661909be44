//! The nodes that share a registry, and the circle that says what belongs to which of them.

use serde::{Deserialize, Serialize};

use super::NodeForm;

/// Where a name lies on the circle of the nodes; without one, what each node has of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The nodes as they are now, by name: members first, then those that left since the server started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodesReply {
    pub nodes: Vec<NodeShown>,
    /// The newest revision that any of them has.
    pub revision: u64,
}

/// A node, and what it said of itself when it was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeShown {
    #[serde(flatten)]
    pub node: NodeForm,
    /// It is a member.
    pub alive: bool,
    /// When it was seen to be none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// Its part of the circle, 0 to 1.
    pub share: f64,
    /// The last revision of the registry that it has; left out, with `lag`, where it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// By how much the newest revision is newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Why it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingReply {
    /// By name.
    pub nodes: Vec<ShareForm>,
    /// The name that was asked for; and where it is the id of instances, they by their whole names, at most `LIST_MAX`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed: Vec<PlacedForm>,
}

/// What a node has of the circle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareForm {
    pub name: String,
    /// Of 16,384.
    pub slots: usize,
    /// 0 to 1.
    pub share: f64,
}

/// Where a name lies, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacedForm {
    pub id: String,
    /// 16 hexadecimal digits.
    pub hash: String,
    /// The rest of the hash by 16,384.
    pub slot: usize,
    /// The slot's place on the circle: from 0 on, below 1.
    pub place: f64,
    pub owner: String,
    /// Who has it when the owner leaves; left out where there is nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
