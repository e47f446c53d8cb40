#![allow(clippy::unwrap_used)]
mod support;
use support::*;
#[test]
fn t() {
    let service = Setup::admin().start();
    let t = std::time::Instant::now();
    support::history::fill(&service, std::env::var("N").unwrap().parse().unwrap());
    println!("filled in {:?}", t.elapsed());
    let mut b = Browser::signed_in(&service);
    let keys = support::sqlite::Database::of(&service).texts("select id from api_keys");
    let n: u32 = std::env::var("N").unwrap().parse().unwrap();
    for p in ["".to_owned(), "/requests".into(), format!("/requests?before={}", n/2), "/requests?before=40".into(), "/requests?state=failed".into(), format!("/requests?state=failed&before={}", n/2), "/requests?state=queued".into(), "/requests?state=succeeded".into(), "/requests?state=expired".into(), format!("/requests?key={}",keys[0]), format!("/requests?key={}&state=cancelled&before={}",keys[0], n/2), "/requests?login=second".into(), format!("/requests?login=second&before={}",n/2), "/requests?login=nobody".into(), "/requests?login=second&state=cancelled".into(), "/requests?from=2026-05-01&to=2026-05-02".into(), "/requests?from=2026-05-01&to=2026-05-02&state=failed".into(), "/requests?from=2030-05-01".into(), "/requests?q=crimson".into(), "/requests?q=nothinglikethis".into(), "/gallery".into(), "/gallery?login=second".into(), "/keys".into(), "/logins".into(), "/cleanup".into(), "/settings".into(), format!("/requests/img_{:032x}", n/2), "/test".into()] {
        b.get(&format!("/admin{p}")).expect(200);
        let mut v: Vec<_> = (0..5).map(|_| { let t = std::time::Instant::now(); b.get(&format!("/admin{p}")).expect(200); t.elapsed().as_secs_f64()*1000.0 }).collect();
        v.sort_by(f64::total_cmp);
        println!("{:8.1} ms {p}", v[2]);
    }
}
