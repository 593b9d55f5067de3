//! The database's address: `postgresql://user:password@host:port/name`, the form of the FastAPI version included.

use postgres::Config;
use std::time::Duration;

/// Reads a URL.
///
/// # Errors
/// What is wrong with it, without its secrets.
pub fn parse(url: &str, connect_timeout: Duration) -> Result<Config, String> {
    // SQLAlchemy names the driver in the scheme.
    let plain = match url.split_once("://") {
        Some((scheme, rest)) if scheme.starts_with("postgresql+") => format!("postgresql://{rest}"),
        Some(("postgresql" | "postgres", _)) => url.to_owned(),
        _ => return Err("DATABASE_URL must look like postgresql://user:password@host:5432/name".into()),
    };
    if ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full"].iter().any(|mode| plain.contains(mode)) {
        return Err("DATABASE_URL asks for TLS, which this version does not speak to PostgreSQL: \
            use a unix socket, a private network or a tunnel, and leave sslmode out"
            .into());
    }
    let mut config: Config = plain.parse().map_err(|_| {
        "DATABASE_URL cannot be read; it must look like postgresql://user:password@host:5432/name".to_owned()
    })?;
    config
        .application_name("vmshare")
        .connect_timeout(connect_timeout)
        .keepalives_idle(Duration::from_secs(10))
        .options("-c statement_timeout=2500 -c lock_timeout=2000 -c timezone=UTC");
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_versions_scheme_is_understood_and_secrets_stay_secret() {
        let config = parse("postgresql+psycopg2://u:hunter2@h:6000/d", Duration::from_secs(1)).expect("it is good");
        assert_eq!((config.get_user(), config.get_dbname(), config.get_ports()), (Some("u"), Some("d"), &[6000][..]));
        for bad in
            ["mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d", "postgresql://u:hunter2@h/d?sslmode=require"]
        {
            let why = parse(bad, Duration::from_secs(1)).expect_err("it is bad");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
