//! `callsign token`: what others carry to be known by.

use std::process::ExitCode;

use callsign::protocol::{CreateForm, NameForm, Reply, Request, StatusForm, TokenForm, TokenShown};
use clap::{Args, Subcommand};

use super::{Asking, Done, FAILED, Failure, Format, message, output};

/// Make, list and revoke tokens
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  callsign token create --name ci --allow 'register+deregister:web*' --expires 30d > ci.token\n  callsign register web 10.0.0.7:8080 --server 10.0.0.1:5301 --token-file ci.token\n  callsign token revoke ci"
)]
pub struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token, and show it this once
    #[command(
        after_help = "Example:\n  callsign token create --name ci --allow 'register+deregister:web*' --deny 'register:web-admin' --expires 30d"
    )]
    Create {
        /// What the log calls whoever carries it, and what it is revoked by
        #[arg(long)]
        name: String,
        /// What it is for, VERBS:SERVICES; verbs are register, deregister, report, read, watch and admin
        #[arg(long, value_name = "GRANT", required = true)]
        allow: Vec<String>,
        /// What it is not for, though it is allowed
        #[arg(long, value_name = "GRANT")]
        deny: Vec<String>,
        /// How long it counts, such as 12h or 30d [default: until it is revoked]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show the tokens that there are, and what they are for
    #[command(after_help = "Example:\n  callsign token list")]
    List {
        #[command(flatten)]
        asking: Asking,
    },
    /// Make a token count no more, on open connections too
    #[command(after_help = "Example:\n  callsign token revoke ci")]
    Revoke {
        /// The token's name
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
}

impl Token {
    pub async fn run(self) -> Done {
        match self.verb {
            Verb::Create { name, allow, deny, expires, asking } => {
                create(CreateForm { name, allow, deny, expires }, &asking).await
            }
            Verb::List { asking } => list(&asking).await,
            Verb::Revoke { name, asking } => {
                let (client, reply) =
                    asking.ask(&Request::Token(TokenForm::Revoke(NameForm { name }))).await?;
                let Reply::Revoked(revoked) = reply else { return Err(client.unexpected(&reply).into()) };
                match asking.output {
                    Format::Table => output::line(&format!("revoked {}", revoked.name))?,
                    format => output::value(format, &revoked)?,
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

async fn create(form: CreateForm, asking: &Asking) -> Done {
    let (client, reply) = asking.ask(&Request::Token(TokenForm::Create(form))).await?;
    let Reply::Created(created) = reply else { return Err(client.unexpected(&reply).into()) };
    match asking.output {
        Format::Table => {
            let token =
                created.token.as_ref().ok_or_else(|| Failure::new(FAILED, "the reply has no token"))?;
            // The text alone, so that it can go into a file.
            output::line(&token.0)?;
            message::say(&format!("this is the token {}; it is not shown again", created.name));
        }
        format => output::value(format, &created)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(asking: &Asking) -> Done {
    let (client, reply) = asking.ask(&Request::Token(TokenForm::List(StatusForm {}))).await?;
    let Reply::Tokens(tokens) = reply else { return Err(client.unexpected(&reply).into()) };
    match asking.output {
        Format::Table => {
            let row = |token: &TokenShown| {
                let until = match (&token.expires, token.expired) {
                    (None, _) => "-".to_owned(),
                    (Some(time), false) => time.clone(),
                    (Some(time), true) => format!("{time} (over)"),
                };
                let words = |grants: &[String]| output::or_dash(grants.join(" "));
                vec![token.name.clone(), words(&token.allow), words(&token.deny), until]
            };
            let rows = tokens.tokens.iter().map(row).collect();
            output::print(&output::table(&["NAME", "ALLOWS", "DENIES", "UNTIL"], rows))?;
        }
        format => output::values(format, &tokens.tokens)?,
    }
    Ok(ExitCode::SUCCESS)
}
