//! Spans and metrics for an OpenTelemetry collector, under the names of the GenAI conventions. Off unless an address is set, and then it costs a
//! look at an `Option`. It is told what happened once it is over, never what was said: no prompt, no answer, no secret.

mod export;

use crate::{
    clock::Time,
    error::{Error, Result},
    model::Usage,
};
use opentelemetry::{
    Context, KeyValue, StringValue, Value,
    metrics::{Histogram, MeterProvider},
    trace::{
        Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
    },
};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// What tells a collector, if there is one. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry(Option<Arc<Collector>>);

struct Collector {
    spans: SdkTracerProvider,
    tracer: opentelemetry_sdk::trace::SdkTracer,
    metrics: SdkMeterProvider,
    tokens: Histogram<u64>,
    seconds: Histogram<f64>,
}

/// Bounds of `gen_ai.client.token.usage`, as the conventions advise.
const TOKENS: [f64; 14] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];
/// Bounds of `gen_ai.client.operation.duration`, in seconds, as the conventions advise.
const SECONDS: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// A caller's own trace, which ours goes on: a `traceparent` of W3C Trace Context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl TraceParent {
    /// From the header's value; nothing where it is not as §3.2 of the standard says.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next =
            |length| parts.next().filter(|part| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (version != "ff" && trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span, sampled })
    }

    /// The trace, as it stands in the header.
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    /// The caller's span, as it stands in the header.
    pub fn parent_id(&self) -> String {
        self.span.to_string()
    }
}

/// A turn as it begins.
pub struct TurnFacts<'a> {
    /// The config that answers.
    pub agent_id: String,
    /// Its name.
    pub agent_name: &'a str,
    /// The provider that the config names.
    pub provider: &'a str,
    /// Its model.
    pub model: &'a str,
    /// The conversation.
    pub conversation: String,
    /// The turn.
    pub turn: String,
    /// The HTTP request.
    pub request: String,
    /// Whose it is.
    pub tenant: String,
}

/// A vendor call that is over.
pub struct ChatFacts<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The model that was asked.
    pub model: &'a str,
    /// The same for metrics: a name of the rate card, so that callers cannot make series.
    pub row: &'a str,
    /// The output limit that was sent.
    pub output_tokens_max: u32,
    /// What was used, if the call was accepted.
    pub usage: Option<Usage>,
    /// Why it ended, when it was answered.
    pub finish: Option<&'static str>,
    /// What went wrong, in one word, when it was not.
    pub failed: Option<&'static str>,
    /// From sending to the end.
    pub took: Duration,
}

/// A call of a tool that the server ran, and that is over.
pub struct ToolFacts<'a> {
    /// The tool; none where the model asked for one that there is not: what it said instead is nobody's business.
    pub name: Option<&'a str>,
    /// The call, as the model named it.
    pub call: &'a str,
    /// What went wrong, in one word.
    pub failed: Option<&'static str>,
    /// From its beginning to its end.
    pub took: Duration,
}

/// A turn that a collector hears of.
pub struct TurnSpan {
    collector: Arc<Collector>,
    context: Context,
}

impl Telemetry {
    /// Tells nobody.
    pub fn off() -> Self {
        Self(None)
    }

    /// Tells the collector at this address, such as `http://127.0.0.1:4318`, in batches from threads of its own. Call it inside the runtime that
    /// the server runs in.
    pub fn to(endpoint: &str) -> Result<Self> {
        let base = endpoint.trim_end_matches('/');
        let wrong = |error: opentelemetry_otlp::ExporterBuildError| Error::Conflict { detail: format!("otlp.endpoint: {error}") };
        let client = export::Client::new()?;
        let spans = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_endpoint(format!("{base}/v1/traces"))
            .build()
            .map_err(wrong)?;
        let metrics = MetricExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{base}/v1/metrics"))
            .build()
            .map_err(wrong)?;
        // Names the service unless the usual variables do.
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => Resource::builder(),
            None => Resource::builder().with_service_name("nimblesite"),
        };
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
        let spans = SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build();
        let metrics = SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(metrics).build();
        let meter = metrics.meter("nimblesite");
        let tokens = meter.u64_histogram("gen_ai.client.token.usage").with_unit("{token}").with_boundaries(TOKENS.to_vec()).build();
        let seconds = meter.f64_histogram("gen_ai.client.operation.duration").with_unit("s").with_boundaries(SECONDS.to_vec()).build();
        let tracer = spans.tracer("nimblesite");
        Ok(Self(Some(Arc::new(Collector { spans, tracer, metrics, tokens, seconds }))))
    }

    /// A turn begins. Nothing when nobody is told; the facts are not even gathered then.
    pub fn turn<'a>(&self, parent: Option<TraceParent>, at: Time, facts: impl FnOnce() -> TurnFacts<'a>) -> Option<TurnSpan> {
        let collector = Arc::clone(self.0.as_ref()?);
        let facts = facts();
        let attributes = [
            KeyValue::new("gen_ai.operation.name", "invoke_agent"),
            KeyValue::new("gen_ai.provider.name", facts.provider.to_owned()),
            KeyValue::new("gen_ai.request.model", facts.model.to_owned()),
            KeyValue::new("gen_ai.agent.id", facts.agent_id),
            KeyValue::new("gen_ai.agent.name", facts.agent_name.to_owned()),
            KeyValue::new("gen_ai.conversation.id", facts.conversation),
            KeyValue::new("nimblesite.turn.id", facts.turn),
            KeyValue::new("nimblesite.request.id", facts.request),
            KeyValue::new("nimblesite.tenant.id", facts.tenant),
        ];
        let name = format!("invoke_agent {}", facts.agent_name);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(moment(at)).with_attributes(attributes);
        let above = parent.map_or_else(Context::new, |parent| {
            let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
            Context::new().with_remote_span_context(SpanContext::new(parent.trace, parent.span, flags, true, TraceState::NONE))
        });
        let span = collector.tracer.build_with_context(builder, &above);
        Some(TurnSpan { context: Context::new().with_span(span), collector })
    }

    /// Sends what waits. Blocks for as long as the collector takes, within its time-out; nothing is told afterwards.
    pub fn close(&self) {
        if let Some(collector) = &self.0 {
            // A collector that is not there has been told of in the log already.
            drop(collector.spans.shutdown());
            drop(collector.metrics.shutdown());
        }
    }
}

impl TurnSpan {
    /// A vendor call of the turn ended just now.
    pub fn chat(&self, at: Time, facts: &ChatFacts<'_>) {
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", facts.provider.to_owned()),
            KeyValue::new("gen_ai.request.model", facts.model.to_owned()),
            KeyValue::new("gen_ai.request.max_tokens", i64::from(facts.output_tokens_max)),
        ];
        if let Some(usage) = facts.usage {
            let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
            attributes.extend([
                // The conventions count cached tokens among the input.
                KeyValue::new("gen_ai.usage.input_tokens", count(usage.input_total())),
                KeyValue::new("gen_ai.usage.output_tokens", count(usage.output_tokens)),
                KeyValue::new("gen_ai.usage.cache_read.input_tokens", count(usage.cache_read_tokens)),
                KeyValue::new("gen_ai.usage.cache_creation.input_tokens", count(usage.cache_write_tokens)),
            ]);
        }
        if let Some(finish) = facts.finish {
            attributes.push(KeyValue::new("gen_ai.response.finish_reasons", Value::Array(vec![StringValue::from(finish)].into())));
        }
        self.below(SpanKind::Client, format!("chat {}", facts.model), (at, facts.took), facts.failed, attributes);
        self.collector.count(facts);
    }

    /// A tool that the turn called ended just now.
    pub fn tool(&self, at: Time, facts: &ToolFacts<'_>) {
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "execute_tool"),
            KeyValue::new("gen_ai.tool.call.id", facts.call.to_owned()),
            // In the conventions' words: it runs on the agent's side, not on the client's.
            KeyValue::new("gen_ai.tool.type", "extension"),
        ];
        attributes.extend(facts.name.map(|name| KeyValue::new("gen_ai.tool.name", name.to_owned())));
        let name = facts.name.map_or_else(|| "execute_tool".to_owned(), |name| format!("execute_tool {name}"));
        self.below(SpanKind::Internal, name, (at, facts.took), facts.failed, attributes);
    }

    /// A span below the turn's, which is over at once.
    fn below(
        &self,
        kind: SpanKind,
        name: String,
        (at, took): (Time, Duration),
        failed: Option<&'static str>,
        mut attributes: Vec<KeyValue>,
    ) {
        attributes.extend(failed.map(|failed| KeyValue::new("error.type", failed)));
        let end = moment(at);
        let start = end.checked_sub(took).unwrap_or(end);
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(start).with_attributes(attributes);
        let mut span = self.collector.tracer.build_with_context(builder, &self.context);
        if let Some(failed) = failed {
            span.set_status(Status::error(failed));
        }
        span.end_with_timestamp(end);
    }

    /// The turn is over; `failed` is the code of what it ended with.
    pub fn end(self, at: Time, failed: Option<&'static str>) {
        let span = self.context.span();
        if let Some(failed) = failed {
            span.set_attribute(KeyValue::new("error.type", failed));
            span.set_status(Status::error(failed));
        }
        span.end_with_timestamp(moment(at));
    }
}

impl Collector {
    fn count(&self, facts: &ChatFacts<'_>) {
        let mut labels = vec![
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", facts.provider.to_owned()),
            KeyValue::new("gen_ai.request.model", facts.row.to_owned()),
        ];
        if let Some(usage) = facts.usage {
            for (kind, tokens) in [("input", usage.input_total()), ("output", usage.output_tokens)] {
                let of_kind: Vec<KeyValue> = labels.iter().cloned().chain([KeyValue::new("gen_ai.token.type", kind)]).collect();
                self.tokens.record(tokens, &of_kind);
            }
        }
        labels.extend(facts.failed.map(|failed| KeyValue::new("error.type", failed)));
        self.seconds.record(facts.took.as_secs_f64(), &labels);
    }
}

fn moment(at: Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.ms()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_traceparent_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(good).unwrap();
        assert_eq!((parent.trace_id().as_str(), parent.parent_id().as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"));
        assert!(parent.sampled && !TraceParent::parse(&good.replace("-01", "-00")).unwrap().sampled);
        for bad in [
            "",
            "00",
            &good.replace("4bf9", "4BF9"),
            &good.replace("00-4", "ff-4"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nobody_is_told_unless_there_is_a_collector() {
        let facts = || -> TurnFacts<'static> { panic!("nothing is gathered for nobody") };
        assert!(Telemetry::off().turn(None, Time::from_ms(0), facts).is_none());
    }
}
