//! One ChatGPT subscription's image generation, shared over a clean HTTP API.
//!
//! The rooms and who may use whom are drawn in the README, section "How it is built".

pub mod activity;
pub mod admin_password;
pub mod api_key;
pub mod backup;
pub mod bounds;
pub mod cli;
pub mod codex;
pub mod config;
pub mod http;
pub mod images;
pub mod limits;
pub mod logins;
pub mod names;
pub mod orders;
pub mod password_hash;
pub mod queue;
pub mod retention;
pub mod state_dir;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod tell;
